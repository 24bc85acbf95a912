"""The list of runs, and the runs that a text names."""

import json
import os
import re
from datetime import datetime, timedelta, timezone

import pytest
from filelock import FileLock

from aectl.config import ConfigError
from aectl.runs import listing


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_run(folder, ago=timedelta(hours=3), **record):
    folder.mkdir(parents=True)
    started = (datetime.now(timezone.utc) - ago).isoformat()
    choices = {"model": "dae", "dataset": "digits"}
    record = {"started": started, "status": "done", "choices": choices, **record}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def listed(capsys):
    listing.print_runs()
    return capsys.readouterr().out.splitlines()


def test_runs_are_listed_newest_first_with_what_to_type_next(tmp_path, capsys):
    objective = {"name": "val/loss", "value": 4.387123}
    old = write_run(tmp_path / "outputs/digits/dae/old", timedelta(days=2, hours=1), objective=objective)
    (old / "metrics.json").write_text(json.dumps({"train": {"epoch": 2}, "test": {"checkpoint": "best"}}))
    (old / "checkpoint.pt").write_bytes(bytes(2_500_000))
    write_run(tmp_path / "outputs/multirun/a/0-x", timedelta(hours=3, minutes=5), status="interrupted")
    lines = listed(capsys)
    assert lines[0].split() == ["model", "data", "status", "objective", "age", "MB", "eval", "folder"]
    assert lines[1].split() == ["dae", "digits", "interrupted", "–", "3", "h", "0.0", "no", "outputs/multirun/a/0-x"]
    told = ["dae", "digits", "done", "loss", "4.387", "2", "d", "2.5", "test", "outputs/digits/dae/old"]
    assert lines[2].split() == told
    assert lines[-1] == "next: aectl eval run=latest"


@pytest.mark.parametrize("metric", ["val/energy_distance", "val/negative_elbo", "val/pseudo_nll", "val/mse"])
def test_a_usual_list_takes_a_line_and_a_path_for_each_run(tmp_path, capsys, monkeypatch, metric):
    monkeypatch.setenv("COLUMNS", "80")
    for name, data, status in (("gan_conv", "digits", "done"), ("undercomplete", "fashion_mnist", "interrupted")):
        objective = {"name": metric, "value": 104.23456}
        folder = write_run(
            tmp_path / f"outputs/{data}/{name}/2026-11-27_07-23-01-595519",
            timedelta(minutes=59),
            choices={"model": name, "dataset": data},
            objective=objective,
            status=status,
        )
        (folder / "checkpoint.pt").touch()
        os.truncate(folder / "checkpoint.pt", 1_250_000_000)
    lines = listed(capsys)
    assert ("MB" in lines[0]) == (metric != "val/pseudo_nll")
    assert len(lines) == 1 + 2 * 2 + 2
    assert max(map(len, lines)) <= 80


def test_a_run_that_runs_is_told_from_one_that_was_killed(tmp_path, capsys):
    for name in ("alive", "killed", "lockless"):
        folder = write_run(tmp_path / "outputs" / name, status="running", pid=os.getpid())
        if name != "lockless":
            (folder / ".lock").touch()
    with FileLock(tmp_path / "outputs/alive/.lock"):
        told = {line.split()[-1]: line.split()[2] for line in listed(capsys)[1:4]}
    assert told == {"outputs/alive": "running", "outputs/killed": "killed", "outputs/lockless": "killed"}


def test_an_evaluation_of_weights_that_a_resume_has_replaced_is_stale(tmp_path, capsys):
    best, last = ({"checkpoint": name, "epoch": 3} for name in ("best", "last"))
    cases = {
        "same": ({"test": best, "valid": last}, "test, valid"),
        "new": ({"test": {**best, "epoch": 2}, "valid": last}, "test (stale), valid"),
        "part": ({"test": {**best, "made": {"codes": {**best, "epoch": 1}, "noises": best}}}, "test (stale)"),
        "last": ({"test": {**last, "epoch": 2}}, "test (stale)"),
        "odd": ({"test": {"checkpoint": "best", "epoch": "x", "made": {"codes": 5}}}, "test"),
    }
    for name, (metrics, _) in cases.items():
        folder = write_run(tmp_path / "outputs" / name, epochs=3, objective={"name": "x", "value": 1.0, "epoch": 3})
        (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = listed(capsys)
    for name, (_, told) in cases.items():
        assert any(re.search(rf" {re.escape(told)} +outputs/{name}$", line) for line in lines), name


def test_damaged_records_do_not_break_the_list(tmp_path, capsys):
    contents = ("", "[1]", '{"started": 5}', '{"choices": [], "objective": 3}', '{"objective": {"value": "x"}}', "\x00")
    for number, content in enumerate(contents):
        folder = tmp_path / "outputs" / str(number)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(content)
        (folder / "metrics.json").write_text(content)
    lines = listed(capsys)
    assert sum("damaged" in line for line in lines) == 3
    assert all(any(line.endswith(f"outputs/{number}") for line in lines) for number in range(len(contents)))


def test_at_most_30_runs_are_listed(tmp_path, capsys):
    for number in range(33):
        write_run(tmp_path / "outputs" / f"run{number:02}", timedelta(minutes=number + 1))
    lines = listed(capsys)
    assert lines[1].endswith("run00")
    assert "and 3 more in outputs" in lines
    assert not any("run30" in line for line in lines)


def test_without_runs_it_says_how_to_make_one(capsys):
    (line,) = listed(capsys)
    assert line.startswith("no run in outputs yet")
    assert "aectl train" in line


def test_paths_stand_below_where_they_do_not_fit(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "outputs" / ("long" * 50))
    assert f"    outputs/{'long' * 50}" in listed(capsys)


def sweep(tmp_path):
    return [write_run(tmp_path / f"outputs/multirun/s/{n}-job", timedelta(minutes=n + 1)) for n in (0, 2, 10)]


def found(text):
    return [str(folder) for folder in listing.find_runs(text)]


def test_runs_are_found_by_folder_latest_sweep_and_glob(tmp_path):
    jobs = [str(job.relative_to(tmp_path)) for job in sweep(tmp_path)]
    assert found(jobs[1]) == [jobs[1]]
    assert [p.resolve() for p in listing.find_runs("latest")] == [tmp_path / jobs[0]]
    assert found("outputs/multirun/s") == jobs
    assert found("outputs/*/s/[12]*") == jobs[1:]
    assert found(str(tmp_path / "outputs/**/0-job")) == [str(tmp_path / jobs[0])]
    assert found("outputs/mult*") == jobs


def test_several_are_separated_by_commas_and_each_comes_once(tmp_path):
    jobs = [str(job.relative_to(tmp_path)) for job in sweep(tmp_path)]
    assert found(f"{jobs[2]}, {jobs[0]}") == [jobs[2], jobs[0]]
    assert found(f"{jobs[2]},outputs/multirun/s,latest,{tmp_path / jobs[0]}") == [jobs[2], jobs[0], jobs[1]]


def test_a_comma_in_the_name_of_a_folder_is_part_of_it(tmp_path):
    write_run(tmp_path / "a,b")
    assert found("a,b") == ["a,b"]


@pytest.mark.parametrize("item", ["nowhere", "outputs/x*", "empty", "**x", "run.txt"])
def test_a_name_of_no_run_is_named(tmp_path, item):
    job = sweep(tmp_path)[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "run.txt").touch()
    with pytest.raises(ConfigError) as error:
        listing.find_runs(f"{job},{item}")
    assert f"'{item}'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        (".", ["outputs/mnist/vae/1", "outputs/multirun/s/0-x", "a/b/c/shallow"]),
        ("a", ["a/b/c/shallow", "a/b/c/d/deep"]),
        ("a/*", ["a/b/c/shallow", "a/b/c/d/deep"]),
        ("a/**", ["a/b/c/shallow", "a/b/c/d/deep"]),
        ("**", ["a/b/c/shallow", "outputs/mnist/vae/1", "outputs/multirun/s/0-x"]),
        ("a/b/c/d/*/*/*", ["a/b/c/d/e/f/deeper"]),
        ("a/b/c/d", ["a/b/c/d/deep", "a/b/c/d/e/f/deeper"]),
        ("elsewhere/outputs", ["elsewhere/outputs/1/2/3/4/5/6"]),
        ("elsewhere/sweep", ["elsewhere/sweep/1/2/3/4/5/6"]),
    ],
)
def test_a_folder_that_is_no_sweep_is_searched_four_levels_deep(tmp_path, name, runs):
    all_runs = ["outputs/mnist/vae/1", "outputs/multirun/s/0-x", "a/b/c/shallow", "a/b/c/d/deep", "a/b/c/d/e/f/deeper"]
    all_runs += ["elsewhere/outputs/1/2/3/4/5/6", "elsewhere/sweep/1/2/3/4/5/6", ".hidden/run", "a/b/c/shallow/inner"]
    for folder in all_runs:
        write_run(tmp_path / folder)
    (tmp_path / "elsewhere/sweep/sweep.json").touch()
    assert sorted(found(name)) == sorted(runs)


def test_where_nothing_is_found_the_depth_is_stated(tmp_path):
    write_run(tmp_path / "a/b/c/d/e/f")
    with pytest.raises(ConfigError, match=r"'a' names no run: .* or up to 4 levels below"):
        listing.find_runs("a")


def test_no_name_at_all_is_refused():
    with pytest.raises(ConfigError, match="run is empty"):
        listing.find_runs(" , ")
