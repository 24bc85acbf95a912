"""Resolve the pinned versions for each Python that aectl supports: `make test-pythons`.

It needs a package index and takes some seconds, since only metadata are read.
"""

import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
"""From the lower bound of pyproject.toml on."""


def resolve(uv: str, python: str) -> subprocess.CompletedProcess[str]:
    """Resolve `.[dev]` with constraints.txt for a Python, by wheels alone but for antlr4, which has none."""
    command = [uv, "pip", "compile", "pyproject.toml", "--extra", "dev", "--constraint", "constraints.txt"]
    command += ["--python-version", python, "--only-binary", ":all:", "--no-binary", "antlr4-python3-runtime"]
    command += ["--no-header", "--no-annotate", "--quiet"]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    failed = 0
    for python in PYTHONS:
        done = resolve(sys.argv[1], python)
        failed += done.returncode != 0
        packages = sum("==" in line for line in done.stdout.splitlines())
        print(f"Python {python}: " + (f"{packages} packages" if done.returncode == 0 else done.stderr.strip()))
    sys.exit(failed)
