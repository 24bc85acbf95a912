"""Runs of this version, small enough to be kept: `python tests/faults/upgrade/make.py v2` writes them beside this file.

Nothing of the machine stays in them: no host, no paths, no commit. TensorBoard's files are left out.
"""

import itertools
import json
import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path

from aectl.cli import main as cli
from aectl.training.stop_signals import Interruption

HERE = Path(__file__).parent
COMMON = ("dataset=digits", "dataset.valid=100", "batch_size=100", "device=cpu", "device.threads=1")
SMALL = ("model.encoder.widths=[8]", "model.decoder.widths=[8]", "model.code=4")
DENOISER = ("model=undercomplete", "noise=masking", *SMALL, "epochs=3")
RUNS = {
    "undercomplete": DENOISER,
    "halfway": DENOISER,
    "rbm": ("model=rbm", "model.hidden=8", "model.persistent=10", "epochs=2"),
    "stacked_ae": ("model=stacked_ae", "model.widths=[12,8]", "model.pretrain_epochs=1", "epochs=2"),
}
STEPS = 20
"""Steps after which `halfway` is stopped: 13 are an epoch."""
MEASURED = ("nll_images=50", "only=[reconstruction,denoising,codes,classification,likelihood]")
KEPT = ("config.yaml", "overrides.yaml", "hydra.yaml", "best.pt", "last.pt", "run.json", "metrics.json", "metrics.csv")


def type_in(*words):
    """Do what `aectl …` does."""
    sys.argv = ["aectl", *words]
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code not in (0, None):
            print("ended with", stop.code)
    for handler in list(logging.getLogger().handlers):
        logging.getLogger().removeHandler(handler)


def train(name, words, folder):
    """Train one of the runs and measure it."""
    if name == "halfway":
        steps = itertools.count()
        plain = Interruption.reason
        Interruption.reason = property(lambda self: "max_time" if next(steps) == STEPS else None)
    type_in("train", *words, *COMMON, f"hydra.run.dir={folder}")
    if name == "halfway":
        Interruption.reason = plain
    type_in("eval", f"run={folder}", "figures=false", "device=cpu", *MEASURED)


def strip(folder):
    """Leave what a later version reads, and nothing that tells of this machine."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name not in KEPT:
            path.unlink()
    record = json.loads((folder / "run.json").read_text())
    record |= {"host": "somewhere", "pid": 1, "git": None}
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    hydra = folder / ".hydra" / "hydra.yaml"
    hydra.write_text(re.sub(r"(?m)([:=] ?|- )/\S+", r"\1/somewhere", hydra.read_text()))


if __name__ == "__main__":
    # Hydra is given a sys.argv of its own.
    version = sys.argv[1]
    with tempfile.TemporaryDirectory() as place:
        for name, words in RUNS.items():
            folder = Path(place, name)
            train(name, words, folder)
            strip(folder)
            shutil.copytree(folder, HERE / f"{version}-{name}")
