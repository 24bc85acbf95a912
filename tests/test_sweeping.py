"""Whole sweeps: beside each other, killed in the middle, and gone on with."""

import json
import os
import signal

import pytest

from tests.typed import QUICK, begin, jobs, record, rows, sweep_folder, type_in, wait_until


def test_jobs_run_beside_each_other_and_a_failed_one_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = type_in(*QUICK[:2], "model.code=4,0,8", "epochs=2", "jobs=2")
    assert code == 1, said
    lines = said.splitlines()
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
    assert [record(job)["overrides"][-1] for job in jobs(sweep_folder())] == [f"device.threads={share()}"] * 3


def share():
    return max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.torture
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
        assert (f"goes on   {number}  seed={number}" in said) == (status == "interrupted")
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
