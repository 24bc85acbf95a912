"""Commands that meet in one folder: none mixes with another, and what is refused leaves the other as it was."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from aectl.training import checkpoint
from tests.faults.racing import ask, be_patient, raced, stop_the_clock, typed

TINY = (
    "model=linear",
    "model.code=2",
    "dataset=digits",
    "epochs=1",
    "batch_size=512",
    "device=cpu",
    "device.threads=1",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["aectl"])
    monkeypatch.delenv("AECTL_DEBUG", raising=False)
    return tmp_path


def check_run(folder, seed):
    """Assert that all a run's folder holds is of one run, the one of a seed."""
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["seed"]) == ("done", seed)
    assert OmegaConf.load(folder / ".hydra/config.yaml").seed == seed
    assert f"seed={seed}" in OmegaConf.load(folder / ".hydra/overrides.yaml")
    with (folder / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["val/loss"]) == record["objective"]["value"]
    assert checkpoint.load(folder / "checkpoints/last.pt")["metrics"]["val/loss"] == float(row["val/loss"])
    assert len(list(folder.glob("events.*"))) == 1
    assert not list(folder.glob(".hydra~*"))
    return record["objective"]["value"]


def test_runs_that_begin_in_one_moment_have_a_folder_each(here, tally):
    count = 3
    results = raced(*((typed, ("train", *TINY, f"seed={seed}")) for seed in range(count)), first=[stop_the_clock])
    assert results == [[0, ""]] * count
    folders = sorted(Path("outputs/digits/linear").iterdir())
    stamp = "2026-01-02_03-04-05-000678"
    assert [folder.name for folder in folders] == [stamp, *(f"{stamp}-{n}" for n in range(2, count + 1))]
    seeds = {json.loads((folder / "run.json").read_text())["seed"]: folder for folder in folders}
    assert len({check_run(folder, seed) for seed, folder in seeds.items()}) == count
    tally("runs of one microsecond, in folders of their own", count)


def test_of_two_runs_in_one_folder_the_second_is_refused_and_changes_nothing(here, tally):
    words = ("hydra.run.dir=mine", *TINY)
    results = raced(*((typed, ("train", *words, f"seed={seed}")) for seed in range(2)), first=[be_patient])
    assert sorted(code for code, _ in results) == [0, 2]
    winner = next(seed for seed, (code, _) in enumerate(results) if code == 0)
    pid = json.loads(Path("mine/run.json").read_text())["pid"]
    for code, said in results:
        assert code == 0 or said.startswith(f"aectl: {here}/mine is being trained by process {pid}\n"), said
        assert len(said.splitlines()) == (code != 0)
    assert OmegaConf.load("mine/.hydra/config.yaml").seed == winner
    assert not list(Path("mine").glob(".hydra?*"))
    tally("runs in one folder: refused")


def test_a_refused_run_leaves_the_config_of_the_one_that_is_there(here):
    assert typed("train", "hydra.run.dir=mine", *TINY, "seed=1")[0] == 0
    code, said = typed("train", "hydra.run.dir=mine", *TINY, "seed=2")
    assert (code, "holds a run already" in said) == (2, True)
    check_run(Path("mine"), 1)


def test_of_resumes_that_begin_together_one_goes_on_and_the_others_name_it(here, tally):
    assert typed("train", "hydra.run.dir=mine", *TINY, "seed=1")[0] == 0
    before = json.loads(Path("mine/run.json").read_text())["pid"]
    results = raced(*((typed, ("train", "resume=mine", f"epochs={n}")) for n in (3, 4)), first=[be_patient])
    assert sorted(code for code, _ in results) == [0, 2]
    record = json.loads(Path("mine/run.json").read_text())
    epochs = next(number for number, (code, _) in zip((3, 4), results, strict=True) if code == 0)
    assert record["pid"] != before
    for code, said in results:
        assert code == 0 or said == f"aectl: {here}/mine is being trained by process {record['pid']}\n"
    assert record["goal"]["epochs"] == epochs
    assert OmegaConf.load("mine/.hydra.1/config.yaml").epochs == epochs
    assert [path.name for path in Path("mine").glob(".hydra?*")] == [".hydra.1"]
    assert OmegaConf.load("mine/.hydra/config.yaml").epochs == 1
    tally("resumes of one run at once: refused")


def test_a_run_is_evaluated_by_two_at_once_and_while_it_trains(here, monkeypatch, tally):
    monkeypatch.setenv("AECTL_CACHE", str(here / "cache"))
    assert typed("train", "hydra.run.dir=mine", *TINY)[0] == 0
    words = ("run=mine", "device=cpu", "figures=false", "only=reconstruction")
    commands = [(typed, ("eval", *words))] * 2 + [(typed, ("train", "resume=mine", "epochs=10"))]
    assert [code for code, _ in raced(*commands)] == [0, 0, 0]
    record, metrics = (json.loads(Path("mine", name).read_text()) for name in ("run.json", "metrics.json"))
    assert (record["status"], metrics["train"]["epoch"]) == ("done", 10)
    assert "reconstruction" in json.dumps(metrics)
    assert not list(Path("mine").glob(".*.json.*")) and not list(Path("cache").rglob("*.tmp"))
    tally("evaluations of one run at once", 2)


def test_a_baseline_is_computed_once_for_all_that_ask(here, tally):
    assert raced(*[(ask, (str(here / "cache"),))] * 6) == [499500] * 6
    assert Path("computed").read_text() == "x"
    tally("processes that filled a cache at once", 6)


def started(*words):
    command = [sys.executable, "-m", "aectl", "train", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_twenty_real_commands_at_once(part, here, tally):
    children = [started(*TINY, f"seed={seed}") for seed in range(10)]
    assert [child.communicate()[1] for child in children] == [""] * 10
    seeds = Counter(json.loads(path.read_text())["seed"] for path in Path("outputs").rglob("run.json"))
    assert seeds == Counter(range(10))
    for path in Path("outputs").rglob("run.json"):
        check_run(path.parent, json.loads(path.read_text())["seed"])
    tally("runs started at once, in folders of their own", 10)


@pytest.mark.slow
def test_five_sweeps_at_once(here, tally):
    children = [started("-m", *TINY, f"seed={seed},{seed + 1}", "jobs=1") for seed in (0, 2, 4, 6, 8)]
    assert [child.communicate()[1] for child in children] == [""] * 5
    sweeps = sorted(path.parent for path in Path("outputs/multirun").glob("*/sweep.json"))
    found = [sorted(json.loads(path.read_text())["seed"] for path in sweep.glob("*/run.json")) for sweep in sweeps]
    assert sorted(found) == [[seed, seed + 1] for seed in (0, 2, 4, 6, 8)]
    tally("sweeps started at once, in folders of their own", 5)
