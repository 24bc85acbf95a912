"""A search: the space that overrides leave open, and a study that outlives its process, bad trials and crashes."""

import json
import os
import time
from multiprocessing import get_context

import optuna
import pytest

from aectl.config import ConfigError
from aectl.sweep.optuna_search import Search, open_study
from aectl.sweep.search_space import SearchSpace
from tests.typed import QUICK, begin, jobs, record, sweep_folder, type_in, wait_until

LR = "optimizer.lr=tag(log,interval(0.001,0.1))"


def draws(arguments, params=None, trials=40):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = SearchSpace(arguments, params or {})
    return space, [dict(word.split("=", 1) for word in space.suggest_overrides(study.ask())) for _ in range(trials)]


def test_every_kind_of_open_value_is_drawn_from():
    words = [
        "model=vae",
        LR,
        "a=4,8",
        "b=choice([1],[2,3])",
        "c=int(interval(1,9))",
        "d=range(2,9,3)",
        "e=interval(0.5,1)",
    ]
    space, found = draws(words)
    assert space.fixed == ["model=vae"]
    assert {one["a"] for one in found} == {"4", "8"}
    assert {one["b"] for one in found} == {"[1]", "[2,3]"}
    assert {int(one["c"]) for one in found} == set(range(1, 10))
    assert {one["d"] for one in found} == {"2", "5", "8"}
    assert all(0.5 <= float(one["e"]) <= 1 for one in found)
    rates = sorted(float(one["optimizer.lr"]) for one in found)
    assert rates[0] >= 0.001 and rates[-1] <= 0.1
    # On a logarithmic scale half of the draws lie below the geometric mean.
    assert 10 <= sum(rate < 0.01 for rate in rates) <= 30


def test_what_is_typed_goes_before_the_ready_made_space():
    space, found = draws(["a=7", "b=1,2"], {"a": "interval(0,1)", "b": "5,6", "c": "3,4"})
    assert space.fixed == ["a=7"]
    assert {one["b"] for one in found} == {"1", "2"}
    assert {one["c"] for one in found} == {"3", "4"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a=1"], "nothing to search for"),
        (["a=range(0.1,1,0.1)"], "cannot search a=range"),
        (["a=range(9,2)"], "a=range.9,2.: the range is empty"),
        (["a=interval(2,1)"], "a=interval.2,1.: the first end must be less than the second"),
        (["a=tag(log,interval(0,1))"], "the first end must be above 0 and less than the second"),
    ],
)
def test_what_cannot_be_searched_is_told(words, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace(words, {})


def write(job, values, **entries):
    job.folder.mkdir(exist_ok=True)
    goal = {"epochs": 9, "objective": "val/loss"}
    (job.folder / "run.json").write_text(json.dumps({"status": "running", "goal": goal, **entries}))
    lines = [f"{epoch},{value},1.0" for epoch, value in enumerate(values, 1)]
    (job.folder / "metrics.csv").write_text("\n".join(["epoch,val/loss,seconds", *lines, ""]))


def test_a_run_that_is_worse_than_the_others_at_the_same_epoch_is_stopped(tmp_path):
    study = open_study(tmp_path, None, "aectl", 0, 3)
    search = Search(study, SearchSpace([LR], {}), tmp_path, ["-m"], 5)
    coming = search.propose_jobs()
    for value in (1.0, 1.1, 1.2, 1.3):
        job = next(coming)
        write(job, [value + 2, value + 1], status="done", objective={"name": "val/loss", "value": value, "epoch": 2})
        search.ended(job, "")
    job = next(coming)
    sleeper = get_context("spawn").Process(target=time.sleep, args=(60,))
    sleeper.start()
    try:
        write(job, [3.1], pid=sleeper.pid)
        search.tick()
        assert sleeper.is_alive()
        # Of a trial that goes on the record has a process of before, whose number may be another one's now.
        write(job, [3.1, 9.0], pid=os.getppid())
        search.tick()
        assert not search.pruned
        write(job, [3.1, 9.0], pid=sleeper.pid)
        search.tick()
        sleeper.join(10)
        assert sleeper.exitcode == -15
    finally:
        sleeper.kill()
    search.ended(job, "")
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"]
    assert record(job.folder)["status"] == "pruned"
    assert list(coming) == []


def test_what_is_gone_on_with_draws_other_numbers(tmp_path):
    space, drawn = SearchSpace(["a=interval(0,1)"], {}), []
    for _ in range(3):
        search = Search(open_study(tmp_path, None, "aectl", 0, None), space, tmp_path, ["-m"], 9)
        job = next(search.propose_jobs())
        write(job, [1.0], status="done", objective={"name": "val/loss", "value": 1.0, "epoch": 1})
        search.ended(job, "")
        drawn += job.overrides
    assert len(set(drawn)) == 3


def test_a_killed_trial_is_no_failed_one(tmp_path):
    study = open_study(tmp_path, None, "aectl", 0, None)
    search = Search(study, SearchSpace([LR], {}), tmp_path, ["-m"], 2)
    coming = search.propose_jobs()
    killed, failed = next(coming), next(coming)
    write(killed, [1.0])
    write(failed, [1.0], status="failed")
    for job in (killed, failed):
        search.ended(job, "its process was killed")
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "FAIL"]


@pytest.mark.slow
def test_a_killed_search_goes_on_and_a_crash_ends_no_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = "journal.log"
    words = ["sweep=optuna", *QUICK[:-1], "model.code=choice(8,0)", LR, "trials=7", "epochs=12", "jobs=2"]
    process = begin(*words, f"storage={storage}")
    wait_until(lambda: len(list(tmp_path.glob("outputs/multirun/*/*/checkpoints/last.pt"))) == 2)
    process.kill()
    process.communicate(timeout=30)
    code, said = type_in("resume=latest")
    assert code == 1, said
    assert "started already" in said
    folder = sweep_folder()
    found = {int(job.name.split("-")[0]): record(job) for job in jobs(folder) if (job / "run.json").is_file()}
    study = open_study(folder, storage, "aectl", 0, None)
    assert sorted(found) == list(range(7)) == [trial.number for trial in study.trials]
    names = {"done": "COMPLETE", "failed": "FAIL", "pruned": "PRUNED"}
    assert [trial.state.name for trial in study.trials] == [names[found[i]["status"]] for i in range(7)]
    for trial in study.trials:
        assert (trial.params["model.code"] == "0") == (trial.state.name == "FAIL")
        if trial.value is not None:
            assert trial.value == found[trial.number]["objective"]["value"]
    assert {"history.png", "importances.png"} <= {path.name for path in (folder / "figures").iterdir()}
