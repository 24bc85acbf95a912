"""The recipes of CONTRIBUTING.md, added to a copy of the package: each is found everywhere without another edit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RECIPE = re.compile(r"^`(?P<path>[\w./]+)`\n\n```(?:python|yaml)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
QUICK = ("epochs=1", "batch_size=60", "device=cpu", "device.threads=1")


def recipes():
    """Return the files that CONTRIBUTING.md shows, with their text."""
    return [(one["path"], one["text"]) for one in RECIPE.finditer((ROOT / "CONTRIBUTING.md").read_text())]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a copy of the package with all recipes in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("aectl", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in recipes():
        # A file of the package, which holds the family of the new class, gets it at its end.
        before = (folder / path).read_text() + "\n\n" if (folder / path).exists() else ""
        (folder / path).write_text(before + text)
    return folder


@pytest.fixture(scope="module")
def work(checkout):
    (checkout / "work").mkdir()
    return checkout / "work"


@pytest.fixture(scope="module")
def call(checkout, work):
    """Return a function that runs `python -m aectl …` of the copy in a folder beside it, and returns what it prints."""

    def run(*words, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "aectl", *words],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(checkout), "AECTL_CACHE": str(checkout / "cache"), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def trained(call, work):
    """Return the folder of a run of the published number's protocol, evaluated."""
    call("train", "experiment=doe_stripes", *QUICK, "name=run")
    call("eval", "run=latest", "only=[reconstruction,brightness]", "figures=false", "device.threads=1")
    (found,) = work.glob("outputs/stripes/squeeze/run")
    return found


def test_contributing_shows_each_kind_of_thing():
    folders = [str(Path(path).parent) for path, _ in recipes()]
    python = ["aectl/models", "aectl/evaluation", "aectl/data", "aectl/data", "aectl/training", "aectl/sampling"]
    yaml = ["conf/model", "conf/dataset", "conf/noise", "conf/schedule", "conf/sweep", "conf/experiment"]
    assert sorted(folders) == sorted([*python, "hydra_plugins/aectl", *yaml])


def test_help_lists_what_was_added(call):
    train, sample = (" ".join(call(command, "--help").split()) for command in ("train", "sample"))
    assert "squeeze One linear layer each way, and a sigmoid" in train
    for name in ("stripes", "speckle", "halving", "serial"):
        assert re.search(rf"\b{name}\b", train)
    assert "mirror (reconstructions of test images and of their mirror images)" in sample


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("train schedule=h", "halving"),
        ("train model=squeeze noise=s", "speckle"),
        ("train experiment=d", "doe_stripes"),
        ("train -m sweep=se", "serial"),
        ("sample kind=m", "mirror"),
        ("eval only=b", "brightness"),
    ],
)
def test_tab_completes_what_was_added(call, line, name):
    assert (
        f"{line.split()[-1].partition('=')[0]}={name}" in call("-sc", "query=bash", COMP_LINE=f"aectl {line}").split()
    )


def test_a_run_with_all_of_them_is_trained_and_evaluated(trained):
    config = (trained / ".hydra/config.yaml").read_text()
    for name in ("squeeze.Squeeze", "stripes.stripes", "speckle.Speckle", "halving.Halving"):
        assert f".{name}\n" in config
    assert "val/contrast" in (trained / "metrics.csv").read_text().splitlines()[0]
    section = json.loads((trained / "metrics.json").read_text())["test"]
    assert np.isfinite(section["brightness"]["model"]["excess"])
    assert section["columns"]["objective"]["contrast"]["meaning"].startswith("lightest less darkest")
    assert section["published"]["mse"]["verdict"] in ("PASS", "FAIL")


def test_its_samples_have_the_new_kind(call, trained):
    said = call("sample", "run=latest", "kind=mirror", "n=10", "device.threads=1")
    assert "mirror.png" in said
    assert np.load(trained / "samples/mirror.npz")["images"].shape == (3, 10, 1, 8, 8)


def test_a_new_launcher_runs_a_sweep_that_a_stored_one_may_not_choose(call, work):
    said = call("train", "-m", "sweep=serial", "model=squeeze", "dataset=stripes", *QUICK, "hydra.sweep.dir=sweep")
    assert "1 job" in said
    (run,) = work.glob("sweep/*/run.json")
    assert json.loads(run.read_text())["status"] == "done"
    (work / "stored").mkdir()
    (work / "stored/sweep.json").write_text(json.dumps({"format": 1, "command": ["-m", "sweep=serial"], "jobs": []}))
    with pytest.raises(AssertionError, match="sweep=serial: a sweep's folder may not ask for that"):
        call("train", "-m", "resume=stored")
