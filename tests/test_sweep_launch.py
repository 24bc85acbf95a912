"""Whole sweeps: beside each other, killed in the middle, and gone on with."""

import json
import os
import signal

import pytest
from omegaconf import OmegaConf

from aectl.sweep import launch
from tests.hparams import hparams_page
from tests.typed import QUICK, begin, jobs, record, rows, sweep_folder, type_in, wait_until


def test_jobs_run_beside_each_other_and_a_failed_one_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = type_in(*QUICK[:2], "model.code=4,0,8", "epochs=2", "jobs=2")
    assert code == 1, said
    lines = [line for line in said.splitlines() if not line.startswith("other processes use ")]
    assert lines[0] == "3 jobs"
    (failed,) = [line for line in lines if line.startswith("failed")]
    assert "1  model.code=0  model: code must be at least 1, not 0" in failed
    assert lines.index(failed) < next(i for i, line in enumerate(lines) if "of 3 runs failed" in line)
    states = [record(job)["status"] for job in jobs(sweep_folder())]
    assert states == ["done", "failed", "done"]
    # What was typed is kept word for word; of a job, nobody typed more than its overrides.
    typed = ["aectl", "train", "-m", *QUICK[:2], "model.code=4,0,8", "epochs=2", "jobs=2"]
    assert json.loads((sweep_folder() / "sweep.json").read_text())["typed"] == typed
    assert record(jobs(sweep_folder())[2])["command"].startswith("aectl train dataset=digits device=cpu model.code=8 ")
    # Settings that differ come first on TensorBoard's HParams page, then those of the headline.
    settings, metrics = hparams_page(sweep_folder())
    assert settings[:3] == ["Model code", "Model", "Seed"] and {"batch_size", "dataset"} <= set(settings)
    assert metrics[0] == "Objective/val/loss"
    # A share of the cores that were idle, at most of all of them.
    (threads,) = {record(job)["overrides"][-1] for job in jobs(sweep_folder())}
    assert threads in {f"device.threads={1 + share}" for share in range(max(1, len(os.sched_getaffinity(0)) // 2))}


@pytest.mark.parametrize(
    ("idle", "typed", "device", "count", "jobs", "places", "threads"),
    [
        (1, None, "cpu", None, 8, 1, None),  # one of two cores is busy
        (2, None, "cpu", None, 8, 2, 1),
        (8, None, "cpu", None, 3, 3, 2),
        (8, None, "cpu", 3, 9, 2, 4),
        (2, None, "cpu", 4, 9, 1, None),
        (1, 4, "cpu", None, 8, 4, 1),  # what the user types holds
        (6, 2, "cpu", None, 8, 2, 3),
        (8, None, "auto", None, 8, 1, None),  # one at a time on a GPU
        (8, None, "cpu", None, 0, 1, None),
    ],
)
def test_as_many_jobs_run_as_there_are_idle_cores(idle, typed, device, count, jobs, places, threads, monkeypatch):
    monkeypatch.setattr(launch, "count_usable_cores", lambda: 8)
    monkeypatch.setattr(launch, "count_idle_cores", lambda: idle)
    monkeypatch.setattr(launch, "has_accelerator", lambda: True)
    config = OmegaConf.create({"device": {"count": count}, "hydra": {"runtime": {"choices": {"device": device}}}})
    assert launch.choose_worker_count(config, typed, jobs) == places
    assert launch.threads_per_worker(places) == threads


def test_a_pool_as_large_as_the_machine_need_not_be_measured(monkeypatch):
    monkeypatch.setattr(launch, "count_usable_cores", lambda: 4)
    monkeypatch.setattr(launch, "count_idle_cores", lambda: pytest.fail("measured"))
    assert (launch.threads_per_worker(4), launch.threads_per_worker(9)) == (1, 1)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_ends_as_if_nothing_had_been(aectl, tmp_path):
    words = (*QUICK, "epochs=30", "device.threads=1")
    cut = tmp_path / "cut"
    process = begin(*words, "seed=0,1,2", "jobs=2", f"hydra.sweep.dir={cut}")
    wait_until(lambda: list(cut.glob("*/checkpoints/last.pt")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    # Let what was killed with it save first.
    wait_until(lambda: not any(record(job)["status"] == "running" for job in jobs(cut) if (job / "run.json").is_file()))
    before = {number: record(job)["status"] for number, job in enumerate(jobs(cut)) if (job / "run.json").is_file()}
    assert "interrupted" in before.values()
    code, said = type_in(f"resume={cut}")
    assert code == 0, said
    for number, status in before.items():
        assert (f"resumes      {number}  seed={number}" in said) == (status == "interrupted")
    assert len(jobs(cut)) == 3
    for seed, job in enumerate(jobs(cut)):
        alone = tmp_path / "alone" / str(seed)
        code, *said = aectl("train", *words, f"seed={seed}", f"hydra.run.dir={alone}")
        assert code == 0, said
        assert rows(alone) == rows(job)
        assert record(job)["status"] == "done"
    # Resumed once more, there is nothing to do, and nothing is touched.
    after = {job.name: (job / "metrics.csv").stat().st_mtime_ns for job in jobs(cut)}
    code, said, _ = aectl("train", "-m", f"resume={cut}")
    assert code == 0 and "3 jobs, 3 of them done already" in said
    assert after == {job.name: (job / "metrics.csv").stat().st_mtime_ns for job in jobs(cut)}
