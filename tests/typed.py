"""Whole sweeps as one types them, in processes of their own, and what they leave behind."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

QUICK = ("dataset=digits", "device=cpu", "model.encoder.widths=[64,32]", "model.decoder.widths=[32,64]", "model.code=8")


def begin(*words):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "aectl", "train", "-m", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def type_in(*words):
    process = begin(*words)
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


def sweep_folder():
    (folder,) = Path("outputs/multirun").iterdir()
    return folder


def jobs(folder):
    """Return the folders of a sweep's jobs, which begin with their numbers."""
    return sorted(path for path in folder.iterdir() if path.name.partition("-")[0].isdigit())


def record(job):
    return json.loads((job / "run.json").read_text())


def rows(job):
    """Return metrics.csv without what depends on the clock."""
    with (job / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
