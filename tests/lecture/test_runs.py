"""The lecture's runs are trained once, go on where they stopped, and never take another run's place."""

import json
import time

import pytest

from lecture import runs

pytestmark = pytest.mark.slow
TINY = ("model=linear", "dataset=digits", "model.code=4")


@pytest.fixture
def tiny(monkeypatch):
    """A lecture of few runs."""

    def lecture(**recipes):
        monkeypatch.setattr(runs, "RUNS", recipes)

    return lecture


def record(folder, name, **entries):
    """Leave in `folder` what a run leaves behind."""
    folder.mkdir(parents=True)
    found = {"overrides": list(runs.recipe(name)), "status": "done", "command": "aectl train", **entries}
    (folder / "run.json").write_text(json.dumps(found))


def test_runs_are_trained_and_one_that_is_done_is_not_trained_again(tiny, tmp_path, monkeypatch):
    tiny(a=(*TINY, "epochs=1"))
    said = []
    runs.train(tmp_path, runs.RUNS, said.append)
    assert said[0] == f"0 of 1 runs are in {tmp_path}, 1 are to be trained"
    assert said[1].split()[0] == "a" and said[1].endswith(runs.command("a"))
    assert runs.is_done(tmp_path / "a", runs.recipe("a"))
    assert 0 < runs.trained_seconds(tmp_path / "a") < 60
    monkeypatch.setattr(runs, "start", None)
    runs.train(tmp_path, runs.RUNS, said.append)
    assert said[-1] == f"1 of 1 runs are in {tmp_path}, 0 are to be trained"


def test_a_run_that_was_stopped_goes_on(tiny, tmp_path):
    tiny(a=(*TINY, "epochs=15"))
    training = runs.start(tmp_path / "a", runs.recipe("a"))
    while not (tmp_path / "a" / "checkpoints" / "last.pt").is_file() and training.process.poll() is None:
        time.sleep(0.02)
    training.process.terminate()
    training.process.wait()
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "interrupted"
    runs.train(tmp_path, runs.RUNS, lambda line: None)
    found = json.loads((tmp_path / "a" / "run.json").read_text())
    assert (found["status"], found["epochs"], len(found["resumed"])) == ("done", 15, 1)


def test_another_run_is_refused_before_anything_is_trained(tiny, tmp_path, monkeypatch):
    tiny(a=(*TINY, "epochs=1"), b=(*TINY, "epochs=2"))
    record(tmp_path / "b", "b", overrides=["model=vae"], command="aectl train model=vae")
    monkeypatch.setattr(runs, "start", None)
    with pytest.raises(runs.TrainingFailed, match=r"(?s)another run.*aectl train model=vae"):
        runs.train(tmp_path, runs.RUNS, lambda line: None)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_what_is_not_done_is_begun(tiny, tmp_path, status):
    tiny(a=TINY)
    assert not runs.is_done(tmp_path / "a", runs.recipe("a"))
    record(tmp_path / "a", "a", status=status)
    assert not runs.is_done(tmp_path / "a", runs.recipe("a"))


def test_an_error_is_told_and_the_other_runs_are_stopped(tiny, tmp_path, monkeypatch):
    tiny(long=(*TINY, "epochs=100000"), wrong=("model=linear", "dataset=digits", "model.cod=4"))
    started = []

    def start(folder, recipe, original=runs.start):
        started.append(original(folder, recipe))
        return started[-1]

    monkeypatch.setattr(runs, "start", start)
    with pytest.raises(runs.TrainingFailed, match=r"(?s)aectl train model=linear.*did you mean.*code"):
        runs.train(tmp_path, runs.RUNS, lambda line: None)
    assert all(training.process.returncode is not None for training in started)


def test_commands_are_as_a_person_would_type_them():
    assert runs.command("vae-2") == "aectl train model=vae model.code=2 epochs=20"
    assert "'model.encoder.widths=[512,256]'" in runs.command("deep-8")
    assert len(set(runs.RUNS.values())) == len(runs.RUNS)
