"""aectl itself as a contender: the command that a user types, and what its run folder says."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

COMMON = ("dataset.valid=0", "batch_size=128", "optimizer.lr=0.001", "schedule=constant")
DENSE = "[1000,500,250]"
NETWORKS = {
    "vae": (
        "model=vae",
        "model.code=20",
        "model.encoder.widths=[400]",
        "model.decoder.widths=[400]",
        "model.binarise=false",
    ),
    "dense": (
        "model=undercomplete",
        "model.code=30",
        f"model.encoder.widths={DENSE}",
        "model.decoder.widths=[250,500,1000]",
    ),
    "conv": ("model=conv",),
}


def train(network: str, epochs: int, extra: Sequence[str] = (), device: str = "cpu") -> dict[str, Any]:
    """Return what an `aectl train` came to: as `peers.py` tells it."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [*NETWORKS[network], *COMMON, f"device={device}", f"epochs={epochs}", *extra, f"hydra.run.dir={run}"]
        began = time.time()
        process = subprocess.Popen([sys.executable, "-m", "aectl", "train", *words], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"aectl train {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
        with (run / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        started = datetime.fromisoformat(json.loads((run / "run.json").read_text())["started"]).timestamp()
    return {
        "seconds": [float(row["seconds"]) for row in rows],
        "loss": float(rows[-1]["train/loss"]),
        "startup": started - began,
        "memory": used.ru_maxrss / 1024,
    }
