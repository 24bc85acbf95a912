"""Options of older versions: a command that types one is refused in a line, a stored sweep that has one resumes."""

import json
import logging
from pathlib import Path

import pytest

from aectl.config.removed import replace_removed, replace_renamed
from aectl.sweep.plan import plan_jobs, restore_folders, write_plan
from tests.typed import QUICK, jobs, record, rows, type_in


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("sweep=fused", "sweep=fused was removed"),
        ("-m sweep=fused seed=0,1 together=8", "sweep=fused was removed"),
        ("-m +sweep=[fused]", "sweep=fused was removed"),
        ("-m hydra/launcher=local,fused seed=0,1", "hydra/launcher=fused was removed"),
        ("-m together=8 seed=0,1", "together=8 was a setting of sweep=fused, which was removed"),
        ("-m resume=latest hydra.launcher.together=8", "hydra.launcher.together=8 was a setting of sweep=fused"),
    ],
)
def test_a_removed_option_is_refused_in_a_line_that_names_another(aectl, typed, first):
    code, _, err = aectl("train", *typed.split())
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"aectl: {first}") and "sweep=local" in line
    assert not Path("outputs").exists()


def test_a_renamed_value_still_works_and_is_told_its_new_name(caplog):
    caplog.set_level(logging.INFO)
    words = ["run=latest", "density=gmm", "components=3"]
    assert replace_renamed(words) == ["run=latest", "density=mixture", "components=3"]
    assert caplog.messages == ["density=gmm is called density=mixture now"]


def test_a_job_that_was_planned_as_fused_keeps_its_folder(tmp_path):
    stored = plan_jobs(tmp_path, [["sweep=fused", "model=vae", f"seed={seed}"] for seed in (0, 1)])
    words = ["-m", "sweep=fused", "hydra.launcher.together=8", "model=vae", "seed=0,1"]
    write_plan(tmp_path, words, stored)
    assert replace_removed(words) == ["-m", "sweep=local", "model=vae", "seed=0,1"]
    resumed = restore_folders(
        plan_jobs(tmp_path, [["sweep=local", "model=vae", f"seed={seed}"] for seed in (0, 1, 2)]), tmp_path
    )
    assert resumed[:2] == stored
    assert resumed[2].folder.name == "2-local-vae-seed_2"
    others = plan_jobs(tmp_path, [["sweep=local", "model=dae", "seed=0"]])
    assert restore_folders(others, tmp_path) == others


def store_as_fused(folder):
    """Make a sweep what an older version would have left of it as `sweep=fused`."""
    for job in jobs(folder):
        job.rename(folder / job.name.replace("-local-", "-fused-"))
    path = folder / "sweep.json"
    text = path.read_text().replace('"sweep=local"', '"sweep=fused"')
    stored = json.loads(text)
    stored["command"].append("hydra.launcher.together=8")
    path.write_text(json.dumps(stored))


def rewind(job):
    """Let a run of two epochs be one that was stopped after the first."""
    (job / "checkpoints/before.pt").replace(job / "checkpoints/last.pt")
    (job / "run.json").write_text(json.dumps({**record(job), "status": "interrupted", "fused": {"runs": 2}}))


@pytest.mark.slow
def test_a_stored_fused_sweep_resumes_as_local_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = type_in("sweep=local", *QUICK, "epochs=2", "device.threads=1", "seed=0,1", "hydra.sweep.dir=all")
    assert code == 0, said
    folder = Path("all")
    store_as_fused(folder)
    before, whole = jobs(folder), [rows(job) for job in jobs(folder)]
    rewind(before[1])
    untouched = (before[0] / "metrics.csv").stat().st_mtime_ns

    code, said = type_in("resume=all")
    assert code == 0, said
    assert "2 jobs, 1 of them done already" in said
    assert "resumes      1  seed=1" in said
    assert "resuming after 1 of 2 epochs" in (before[1] / "train.log").read_text()
    assert jobs(folder) == before
    assert [rows(job) for job in before] == whole
    assert (before[0] / "metrics.csv").stat().st_mtime_ns == untouched

    # It is stored as what it is now, and resumes as that.
    code, said = type_in("resume=all")
    assert code == 0 and "2 jobs, 2 of them done already" in said, said
    assert jobs(folder) == before
