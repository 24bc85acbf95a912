"""README's commands, all of them, with settings that make them short; those of docs/ are only composed."""

import re
import shlex
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.readme import asides, blocks, files, python
from tests.small import QUICK, SMALL

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
VAE = ("model=vae", "noise=gaussian", "model.code=2", *SMALL["vae"], *QUICK)
"""A run of which every kind of table and picture can be made that README asks `run=latest` for."""
SHORT = {
    "train": ("dataset=digits", "device=cpu", "device.threads=1", "batch_size=256"),
    "eval": ("device=cpu", "device.threads=1", "nll_samples=5", "nll_images=20", "figures=false"),
    "sample": ("device=cpu", "device.threads=1", "n=20"),
}


def shortened(words):
    """Return a command of aectl with what makes it short; raises KeyError for one that is not known here."""
    command, *rest = words[1:]
    if command.startswith("--") or "--cfg" in rest:
        return words[1:]
    typed = dict(word.split("=", 1) for word in rest if "=" in word)
    rest = [word.replace("outputs/mnist", "outputs/digits") for word in rest]
    if "-m" in rest:
        return cut_down(rest) if "resume" not in typed else [command, *rest]
    if "resume" in typed:
        return [command, *rest, "epochs=2"]
    if command == "train":
        wide = [word for word in SMALL.get(typed.get("model"), ()) if word.split("=")[0] not in typed]
        return [command, *rest, *wide, *SHORT["train"], "epochs=1"]
    some = ["only=[reconstruction]"] if command == "eval" and not {"only", "export", "images"} & set(typed) else []
    return [command, *rest, *(SHORT[command] if typed else ()), *(some if typed else ())]


def cut_down(rest):
    """Return a sweep of two short jobs, which one process carries out: of several keys only the first varies."""
    varied, words = False, []
    for word in rest:
        key, _, value = word.partition("=")
        if key in ("epochs", "trials", "seed") and not varied and value.startswith("range"):
            word, varied = f"{key}=range(0,2)", True
        elif "," in value and not value.startswith("["):
            word, varied = f"{key}={','.join(value.split(',')[: 1 if varied else 2])}", True
        words.append(word)
    short = ("trials=1",) if any(word.startswith("trials=") for word in rest) else ()
    return ["train", *words, *short, *SHORT["train"][:-1], "batch_size=64", "epochs=1", "jobs=1"]


def carried_out(aectl, words):
    """Run or check a command; whatever is not known here fails."""
    if words[0] == "aectl":
        return aectl(*shortened(words))
    if words[0] == "make":
        target, *settings = words[1:]
        assert re.search(rf"^{target}:", MAKEFILE, re.M), f"no target {target}"
        assert all(f"$({word.split('=')[0]})" in MAKEFILE for word in settings)
        return 0, "", ""
    if words[0] == "tensorboard":
        assert list(Path(served(words)).rglob("events.out.tfevents.*"))
        return 0, "", ""
    if words[:2] == ["pip", "install"]:
        # The wheel is built and used in test_packaging.py.
        assert (ROOT / words[2] / "pyproject.toml").is_file()
        return 0, "", ""
    raise AssertionError(f"no test for the command {shlex.join(words)}")


def served(words):
    """Return the folder that TensorBoard would show, by its own flags."""
    with warnings.catch_warnings():
        # One of the packages that it brings along is deprecated.
        warnings.simplefilter("ignore")
        from tensorboard import program
        from tensorboard.plugins.core.core_plugin import CorePluginLoader
    board = program.TensorBoard([CorePluginLoader()])
    board.configure(argv=words)
    return board.flags.logdir


def told(commands):
    return " / ".join(" ".join(words[:4]) for words in commands)[:60]


@pytest.mark.slow
@pytest.mark.parametrize("commands", blocks(README), ids=told)
def test_a_block_of_commands_goes_through(aectl, commands, tmp_path):
    for name, text in files(README).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")
    if commands[0][:2] in (["aectl", "eval"], ["aectl", "sample"]):
        for seed in (0, 1):
            assert aectl("train", *VAE, f"seed={seed}")[0] == 0
    for words in commands:
        code, out, err = carried_out(aectl, words)
        assert code == 0, f"{shlex.join(words)}\n{out}{err}"


@pytest.mark.slow
@pytest.mark.parametrize("words", asides(README), ids=" ".join)
def test_a_command_in_a_sentence_goes_through(aectl, words):
    if words[1] in ("eval", "sample"):
        labelled = ("model=gan", *SMALL["gan"], "model.conditional=true") if "label=7" in words else VAE
        assert aectl("train", *labelled, *QUICK)[0] == 0
    if "resume=latest" in words:
        assert aectl("train", *VAE)[0] == 0
    code, out, err = carried_out(aectl, words)
    assert code == 0, f"{shlex.join(words)}\n{out}{err}"


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["README's first run", "a VAE"])
def test_python_of_the_readme_runs(aectl, first):
    words = shortened(blocks(README)[1][0]) if first else ["train", *VAE]
    assert not first or "model=dae" in words
    assert aectl(*words)[0] == 0
    (code,) = [code for code in python(README) if "aectl.load" in code]
    found = {}
    exec(code, found)
    assert found["images"].shape == found["again"].shape == (16, 1, 8, 8)
    assert ("drawn" in found) != first


@pytest.mark.slow
def test_python_of_its_page_runs(aectl):
    assert aectl("train", *VAE)[0] == 0
    blocks_of_python = python((ROOT / "docs/PYTHON.md").read_text())
    assert len(blocks_of_python) >= 4
    for code in blocks_of_python:
        exec(code, {})


def test_no_command_of_the_readme_is_overlooked():
    seen = {f"{words[0]} {words[1]}" for words in [*chain(*blocks(README)), *asides(README)]}
    assert {"aectl train", "aectl eval", "aectl sample", "make train", "make test", "tensorboard --logdir"} <= seen
    lines = re.findall(r"^ *(?:aectl|make|tensorboard|torchrun|pip) .*$", README, re.M)
    assert len(lines) == sum(len(block) for block in blocks(README))


TOLD = sorted({tuple(words) for path in (ROOT / "docs").glob("*.md") for words in chain(*blocks(path.read_text()))})
COMPOSED = [words for words in TOLD if words[:2] == ("aectl", "train") and "-m" not in words]


@pytest.mark.slow
def test_commands_of_the_documents_compose(aectl):
    assert len(COMPOSED) > 30
    for words in COMPOSED:
        code, out, err = aectl(*words[1:], "--cfg", "job", "-p", "model")
        assert code == 0, f"{shlex.join(words)}\n{err}"
