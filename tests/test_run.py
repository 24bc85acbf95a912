"""What a run's files say: numbers that JSON lacks, and the commit of a folder whose git is not obeyed."""

import json
import math
import subprocess
import sys

import pytest

from aectl.config import ConfigError
from aectl.runs.run import Run, read_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refuse(name):
    raise ValueError(f"{name} is not JSON")


def test_metrics_are_json_that_every_reader_accepts_and_keep_their_numbers(tmp_path):
    rows = {"model": {"psnr": math.inf, "mse": 0.0, "kl": -math.inf, "auroc": math.nan, "of": "grey pixels"}}
    Run(tmp_path).add_metrics(test={"table": rows, "list": [math.nan, 1]})
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    found = Run(tmp_path).metrics["test"]["table"]["model"]
    assert found["psnr"] == math.inf and found["kl"] == -math.inf and math.isnan(found["auroc"])
    assert found["of"] == "grey pixels" and found["mse"] == 0
    # As earlier versions wrote them.
    (tmp_path / "metrics.json").write_text('{"test": {"table": {"model": {"psnr": Infinity, "auroc": NaN}}}}')
    assert Run(tmp_path).metrics["test"]["table"]["model"]["psnr"] == math.inf


@pytest.mark.parametrize(
    ("head", "files", "commit"),
    [
        ("ref: refs/heads/main\n", {"refs/heads/main": COMMIT + "\n"}, COMMIT),
        ("ref: refs/heads/main\n", {"packed-refs": f"# pack-refs\n{COMMIT} refs/heads/main\n"}, COMMIT),
        (COMMIT, {}, COMMIT),
        ("ref: refs/heads/main\n", {}, None),
        ("ref: ../../secret\n", {}, None),
        ("\xff\x1b[2J", {}, None),
        ("ref: refs/heads/main\n", {"refs/heads/main": "x" * 10**6}, None),
    ],
)
def test_the_commit_of_a_folder_is_read_without_git(tmp_path, head, files, commit):
    git = tmp_path / ".git"
    git.mkdir()
    (tmp_path / "secret").write_text(COMMIT)
    (tmp_path / "below").mkdir()
    for name, text in {"HEAD": head, **files}.items():
        (git / name).parent.mkdir(parents=True, exist_ok=True)
        (git / name).write_text(text, encoding="latin-1")
    assert read_commit(tmp_path / "below") == commit


def test_no_program_that_a_folders_git_names_is_run(tmp_path):
    """The package lies outside any checkout here, so that the working folder's commit is what counts."""
    folder, canary = tmp_path / "strangers", tmp_path / "canary"
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / ".git/config").write_text(f"[core]\n\tfsmonitor = touch {canary}\n\tbare = false\n")
    (folder / ".git/HEAD").write_text(COMMIT)
    code = "from aectl.runs import run; run.__file__ = '/nowhere/aectl/runs/run.py'; print(run.read_git_state())"
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str({"commit": COMMIT}) and not canary.exists()


@pytest.mark.parametrize("record", ['{"alarms": 5}', '{"alarms": {"dead": 5}}', '{"epochs": ' + "9" * 5000 + "}"])
def test_a_record_of_other_kinds_is_refused_in_a_line(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(ConfigError, match=r"run.json (is damaged: its 'alarms' is not|cannot be read: Exceeds)"):
        _ = Run(tmp_path).record
