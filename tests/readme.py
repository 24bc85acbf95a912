"""The commands of README.md; `python -m tests.readme` runs them as they are written, in a folder of its own."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = ("aectl", "make", "tensorboard", "pip", "torchrun")
TOOLS = ("make", "tensorboard", "pip", "torchrun")
"""What is not run as written: it would begin everything anew, serve until it is stopped, or install."""
FILES = {"my_module.py": "class MyModel"}
"""Files that commands need, and by what words their text is found among the blocks of Python."""


def blocks(text: str) -> list[list[list[str]]]:
    """Return the indented or fenced blocks that hold commands, each a list of commands, each a list of words."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^ {4}\S.*\n)+", text, re.M) + re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.M | re.S):
        lines = [line.strip() for line in re.sub(r"\\\n", " ", block).splitlines()]
        commands = [shlex.split(line, comments=True) for line in lines if line.partition(" ")[0] in PROGRAMS]
        if commands:
            found.append(commands)
    return found


def asides(text: str) -> list[list[str]]:
    """Return the commands that stand in a sentence, between backticks, or in a comment behind `then`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`]*)`", prose) + re.findall(r"# then (aectl .*)", prose)
    return [shlex.split(words.rstrip("… "), comments=True) for words in found]


def python(text: str) -> list[str]:
    """Return the blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def files(text: str) -> dict[str, str]:
    """Return the files that commands need, by name."""
    return {name: next(code for code in python(text) if words in code) for name, words in FILES.items()}


def as_written(folder: Path) -> int:
    """Run every command of README.md in a folder, and print how each ends; returns how many fail."""
    text = (ROOT / "README.md").read_text()
    for name, code in files(text).items():
        (folder / name).write_text(code)
    photos = folder / "photos"
    photos.mkdir()
    for path in sorted((ROOT / "docs/images").glob("*.png"))[:3]:
        (photos / path.name).write_bytes(path.read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    failed = 0
    for words in [words for block in blocks(text) for words in block]:
        if words[0] in TOOLS:
            print(f"not run   {shlex.join(words)}", flush=True)
            continue
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        failed += done.returncode != 0
        told = "ok       " if done.returncode == 0 else f"FAILED {done.returncode}"
        print(
            f"{told} {shlex.join(words)}",
            *done.stderr.splitlines()[-2:] * (done.returncode != 0),
            sep="\n  ",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(f"{failed} commands failed" if (failed := as_written(Path(scratch))) else 0)
