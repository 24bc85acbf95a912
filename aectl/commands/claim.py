"""A run's folder has one owner at a time: who trains there holds its lock, and nobody else changes anything in it.

Hydra writes its config before any of our code runs. It does so aside, in a folder of the process, and only the owner
puts that in its place: what is refused leaves the config of the run as it was.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from aectl.config import ConfigError
from aectl.run import RECORD, Run, is_alive

PID = ".pid"
"""The owner's process id: run.json has it only once all is ready, and that of the start before until then."""
PATIENCE_SECONDS = 0.5
"""For an owner of a moment to have written its process id."""


class Busy(ConfigError):
    """A run that another process trains: nothing in its folder may be touched."""


def claim(config: DictConfig, run: Run) -> FileLock:
    """Return the lock of the run's folder, held; raises ConfigError if it is another run's or being trained."""
    if (run.folder / RECORD).is_file() and not config.resume:
        raise ConfigError(f"{run.folder} holds a run already; aectl train resume={run.folder} goes on with it")
    lock = FileLock(run.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"{run.folder} is being trained by process {owner(run)}") from None
    if (run.folder / RECORD).is_file() and not config.resume:
        # Of the two that began together, the other one has come to its end in between.
        lock.release()
        raise ConfigError(f"{run.folder} holds a run already; aectl train resume={run.folder} goes on with it")
    (run.folder / PID).write_text(str(os.getpid()))
    return lock


def owner(run: Run) -> int | str:
    """Return the process that holds the lock of a run's folder, as far as its files tell."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        text = (run.folder / PID).read_text() if (run.folder / PID).is_file() else ""
        if text.isdigit() and is_alive(int(text)):
            return int(text)
        time.sleep(0.01)
    return run.record.get("pid") if (run.folder / RECORD).is_file() else "that has only begun"


def adopt(run: Run, aside: str | None) -> None:
    """Put what Hydra wrote aside in its place: `.hydra` of a run that starts, `.hydra.1`, `.hydra.2`, … of a resume."""
    if not aside or not (run.folder / aside).is_dir():
        return
    place, number = run.folder / ".hydra", 0
    if (run.folder / RECORD).is_file():
        while place.exists():
            number += 1
            place = run.folder / f".hydra.{number}"
    # Left by a start that was killed before there was a run.
    shutil.rmtree(place, ignore_errors=True)
    (run.folder / aside).replace(place)


def discard(run: Run, aside: str | None, is_owner: bool = True) -> None:
    """Remove what a start that never began left in its folder, and folders that are empty then, but not the present.

    Of a folder that has an owner only what is one's own.
    """
    if aside:
        shutil.rmtree(run.folder / aside, ignore_errors=True)
    if not is_owner or (run.folder / RECORD).is_file() or not run.folder.is_dir():
        return
    for name in ("train.log", ".lock", PID):
        (run.folder / name).unlink(missing_ok=True)
    here = Path.cwd()
    for folder in [run.folder, *list(run.folder.parents)[:2]]:
        if folder in (here, *here.parents) or any(folder.iterdir()):
            return
        folder.rmdir()
