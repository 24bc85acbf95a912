"""aectl train -m sweep=fused: whole sweeps in one program, stopped, and gone on with."""

import signal

import pytest

from aectl.cli import fused
from aectl.run import Run
from aectl.sweep.bundles import Bundle
from aectl.sweep.plan import plan
from tests.typed import begin, jobs, record, rows, sweep_folder, type_in, wait_until

FUSED = ("-m", "sweep=fused", "dataset=digits", "jobs=1", "device.threads=1", "batch_size=4", "model.code=4")
NETWORK = ("model.encoder.widths=[16]", "model.decoder.widths=[16]")
ALONE = ("dataset=digits", "device.threads=1", "batch_size=4", "model.code=4", *NETWORK)
EPOCHS = "epochs=7"
"""So many that a program is worth making for four runs."""


def test_runs_of_one_program_are_as_if_alone(aectl, tmp_path):
    words = ("seed=0,1", "optimizer.lr=0.001,0.01", "model.code_dropout=0.2")
    code, said = type_in(*FUSED, *NETWORK, EPOCHS, *words)
    assert code == 0, said
    assert "fused: 4 runs, 4 in one program" in said
    assert "not fused" not in said
    found = jobs(sweep_folder())
    assert [record(job)["status"] for job in found] == ["done"] * 4
    for job in found:
        log = (job / "train.log").read_text()
        assert [log.count(words) for words in ("epoch 7/7", "best val/loss")] == [1, 1]
        assert list(job.glob("events.out.tfevents.*")) and (job / "checkpoints" / "best.pt").is_file()
        assert record(job)["fused"] == {"runs": 4, "why": None}

    one = ("seed=1", "optimizer.lr=0.01", "model.code_dropout=0.2")
    code, *said = aectl("train", *ALONE, EPOCHS, *one, f"hydra.run.dir={tmp_path / 'alone'}")
    assert code == 0, said
    for mine, other in zip(rows(found[3]), rows(tmp_path / "alone"), strict=True):
        for key in mine.keys() - {"stage", "seconds"}:
            assert float(mine[key]) == pytest.approx(float(other[key]), rel=1e-3), key

    # One of them goes on by itself.
    code, *said = aectl("train", f"resume={found[0]}", "epochs=8")
    assert code == 0, said
    assert len(rows(found[0])) == 8
    assert record(found[0])["fused"] is None


@pytest.mark.slow
def test_a_killed_one_goes_on_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep"
    process = begin(*FUSED, *NETWORK, "epochs=12", "seed=0,1,2", "device.precision=bf16", f"hydra.sweep.dir={folder}")
    wait_until(lambda: len(list(folder.glob("*/checkpoints/last.pt"))) == 3)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert {record(job)["status"] for job in jobs(folder)} == {"interrupted"}
    code, said = type_in(f"resume={folder}")
    assert code == 0, said
    assert "fused: 3 runs, 3 in one program" in said
    assert [len(rows(job)) for job in jobs(folder)] == [12] * 3
    assert [(job / "train.log").read_text().count("precision bf16") for job in jobs(folder)] == [2] * 3


def test_what_cannot_share_a_program_is_told_and_trained_all_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Two pairs that are too short, and one that cannot begin.
    words = ["-m", "sweep=fused", "dataset=digits", "jobs=1", "device.threads=1", "epochs=1", *NETWORK]
    code, said = type_in(*words, "batch_size=16,64,5000", "seed=0,1")
    assert code == 1
    assert "2 of 6 runs failed" in said
    assert "batch_size must be at most the" in said
    assert "too few to make up" in said
    states = [record(job)["status"] for job in jobs(sweep_folder())]
    assert sorted(states) == ["done"] * 4 + ["failed"] * 2


def test_one_that_cannot_begin_stops_all_if_they_are_to_fail_fast(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = type_in(*FUSED, "epochs=1", *NETWORK, "seed=0,1", "batch_size=4,5000", "fail_fast=true")
    assert code == 1
    assert "1 of 1 run failed" in said
    assert len(jobs(sweep_folder())) == 1


def test_a_job_with_a_process_to_itself_says_so(tmp_path, monkeypatch, capsys):
    (one,) = plan(tmp_path, [["seed=0"]])
    one.folder.mkdir()
    monkeypatch.setattr(fused.job, "carry_out", lambda job, flags, extra: Run(job.folder).end("done") or "")
    assert fused.carry_out(Bundle((one,)), (), (), fail_fast=False) == ""
    fused.tell([one])
    assert "not fused: 1 run, a process to itself" in capsys.readouterr().out


def test_bad_settings_of_the_launcher_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = type_in(*FUSED, "seed=0,1", "together=0")
    assert code == 2 and "together must be at least 1, not 0" in said
