"""The runs behind the figures, and how they come about: by `aectl train`, two at a time, each on one thread."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from aectl.runs.run import RECORD, Run

FOLDER = Path("outputs/lecture")
AT_A_TIME = 2
"""Runs that train beside each other, each on one thread."""
ON_ONE_THREAD = ("device=cpu", "device.threads=1")

CODES = (2, 4, 8, 16, 32, 64)
"""Code sizes of the curve of reconstruction errors."""
FASHION_CODES = (2, 8, 32)
MASKED = (0, 25, 50)
"""Percentages of pixels that are set to zero in Vincent's figure."""
TOYS = ("spiral", "moons")

DEEP = ("model=undercomplete", "model.encoder.widths=[512,256]", "model.decoder.widths=[256,512]", "epochs=15")
VINCENT = (
    *("model=shallow", "model.code=500", "model.tied=true", "model.loss=bce", "batch_size=20"),
    *("optimizer=sgd", "optimizer.lr=0.01", "epochs=15", "noise=masking"),
)
ONE_UNIT = (
    *("model=undercomplete", "model.code=1", "epochs=15"),
    *("model.encoder.widths=[1000,500,250]", "model.decoder.widths=[250,500,1000]"),
)

RUNS: dict[str, tuple[str, ...]] = {
    **{f"vincent-{p}": (*VINCENT, f"noise.p={p / 100:g}") for p in reversed(MASKED)},
    **{f"toy-{kind}": ("experiment=toy", f"dataset.kind={kind}") for kind in TOYS},
    "one-unit": ONE_UNIT,
    "gan-1": ("experiment=classic_gan", "epochs=1"),
    "gan": ("experiment=classic_gan", "epochs=25"),
    "gan-minimax": ("experiment=classic_gan", "model.loss=minimax", "epochs=25"),
    "gan-relativistic": ("model=gan", "epochs=25"),
    "vae-2": ("model=vae", "model.code=2", "epochs=20"),
    **{f"deep-{code}": (*DEEP, f"model.code={code}") for code in CODES},
    **{f"fashion-{code}": (*DEEP, "dataset=fashion_mnist", f"model.code={code}") for code in FASHION_CODES},
    **{f"linear-{code}": ("model=linear", f"model.code={code}") for code in CODES},
    "overcomplete": ("model=overcomplete", "epochs=10"),
    "sparse": ("model=sparse", "epochs=20"),
    "dropout": ("model=dropout", "model.encoder.widths=[512]", "model.decoder.widths=[512]", "epochs=10"),
    "dae-gaussian": ("model=dae", "noise=gaussian", "epochs=15"),
    "dae-masking": ("model=dae", "noise=masking", "epochs=15"),
}
"""What is typed after `aectl train` for each run, by the run's name."""


class TrainingFailed(RuntimeError):
    """A run that ended with an error, or a folder that holds another run."""


@dataclass(frozen=True)
class Training:
    """A run that is being trained by a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    """What the process prints: a file, since a pipe that nobody reads fills up, and then the run stands still."""
    since: float
    """When it was started, in seconds of the monotonic clock."""


def command(name: str) -> str:
    """Return the line that trains a run, as a person would type it."""
    return shlex.join(("aectl", "train", *RUNS[name]))


def recipe(name: str) -> tuple[str, ...]:
    """Return all that is typed after `aectl train` for a run, but for its folder."""
    return (*RUNS[name], *ON_ONE_THREAD)


def is_done(folder: Path, recipe: tuple[str, ...]) -> bool:
    """Return whether the run of a recipe, finished, is in `folder`; False if it is begun there or not at all.

    Raises TrainingFailed if `folder` holds another run: nothing is overwritten or deleted.
    """
    if not (folder / RECORD).is_file():
        return False
    record = Run(folder).record
    if record.get("overrides") != list(recipe):
        raise TrainingFailed(
            f"{folder} holds another run than the lecture's of this name: move it away, or delete it\n"
            f"  it is {record.get('command')}"
        )
    return record.get("status") == "done"


def train(root: Path = FOLDER, names: Iterable[str] = RUNS, report: Callable[[str], None] = print) -> None:
    """Train those runs that are not in `root` yet, AT_A_TIME beside each other; one that was begun goes on.

    Raises TrainingFailed before anything is trained if a folder holds another run, and, with the end of what it
    printed, if a run ends with an error; the others are then stopped, and can go on.
    """
    names = list(names)
    waiting = [name for name in names if not is_done(root / name, recipe(name))]
    report(f"{len(names) - len(waiting)} of {len(names)} runs are in {root}, {len(waiting)} are to be trained")
    running: dict[str, Training] = {}
    try:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                name = waiting.pop(0)
                running[name] = start(root / name, recipe(name))
            for name in [name for name, training in running.items() if training.process.poll() is not None]:
                ended = running.pop(name)
                if ended.process.returncode:
                    log = ended.log.read_text(encoding="utf-8", errors="replace")
                    raise TrainingFailed(f"{command(name)}\n{log[-2000:].strip()}")
                report(f"{name:14} {time.monotonic() - ended.since:4.0f} s  {command(name)}")
            time.sleep(0.1)
    finally:
        for training in running.values():
            training.process.terminate()
        for training in running.values():
            training.process.wait()


def start(folder: Path, recipe: tuple[str, ...]) -> Training:
    """Start to train a run in `folder`, or to go on with the one that was begun there."""
    begun = (folder / RECORD).is_file()
    words = (f"resume={folder}",) if begun else (*recipe, f"hydra.run.dir={folder}")
    log = folder.with_name(f"{folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            (sys.executable, "-m", "aectl", "train", *words),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Training(process, log, time.monotonic())


def trained_seconds(folder: Path) -> float:
    """Return the seconds that the epochs of a run took."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))
