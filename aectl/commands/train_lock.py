"""Lock a run's folder for the process that trains it.

Hydra writes its config before aectl's code runs, into a temporary folder of the process. Only the owner of the lock
moves it to `.hydra`, so a refused command does not change the run's config.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from aectl.config import ConfigError
from aectl.config.folder_names import remove_empty_folders
from aectl.runs.run import RECORD, Run, is_alive
from aectl.system import atomic_write
from aectl.system.file_lock import FileLock, Timeout

PID = ".pid"
"""File with the owner's process id. Until training starts, run.json still has the id of the previous start."""
LONGEST_PID = 20
"""Digits; Python refuses to parse numbers with thousands."""
OWNER_WAIT_SECONDS = 0.5
"""Time for a new owner to write its process id."""


class RunLockedError(ConfigError):
    """The run folder is locked by another process."""


class RunFolderError(OSError):
    """The run folder cannot be written to, or was removed."""


def lock_run(config: DictConfig, run: Run) -> FileLock:
    """Acquire the lock of the run's folder; raises ConfigError if the folder is locked or holds another run."""
    lock = FileLock(run.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = lock.describe_owner() if lock.owner_path.is_file() else f"process {find_owner(run)}"
        raise RunLockedError(f"{run.folder} is being trained by {who}") from None
    if (run.folder / RECORD).is_file() and not config.resume:
        lock.release()
        raise ConfigError(
            f"{run.folder} holds a run already; aectl train resume={shlex.quote(str(run.folder))} resumes it"
        )
    (run.folder / PID).write_text(str(os.getpid()), encoding="ascii")
    remove_leftovers(run)
    return lock


def remove_leftovers(run: Run) -> None:
    """Remove temporary files of killed processes from a run's folder; the caller must hold its lock."""
    for folder in (run.folder, run.folder / "checkpoints"):
        atomic_write.remove_abandoned(folder)
    for aside in run.folder.glob(".hydra~*"):
        number = aside.name.partition("~")[2]
        if number != str(os.getpid()) and not (number.isdecimal() and is_alive(int(number))):
            shutil.rmtree(aside, ignore_errors=True)


def find_owner(run: Run) -> int | str:
    """Return the id of the process that holds the lock, or a phrase if it is not known."""
    end = time.monotonic() + OWNER_WAIT_SECONDS
    while time.monotonic() < end:
        path = run.folder / PID
        text = path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""
        if text.isdecimal() and len(text) < LONGEST_PID and is_alive(int(text)):
            return int(text)
        time.sleep(0.01)
    known = run.record.get("pid") if (run.folder / RECORD).is_file() else None
    return known or "that has just started"


def adopt_hydra_folder(run: Run, aside: str | None) -> None:
    """Move Hydra's temporary folder `aside` to `.hydra`, or to the next `.hydra.N` if the run is resumed."""
    if not aside or not (run.folder / aside).is_dir():
        return
    place, number = run.folder / ".hydra", 0
    if (run.folder / RECORD).is_file():
        while place.exists():
            number += 1
            place = run.folder / f".hydra.{number}"
    # Left by a start that was killed before run.json was written.
    shutil.rmtree(place, ignore_errors=True)
    (run.folder / aside).replace(place)


@contextlib.contextmanager
def explain_write_errors(run: Run) -> Iterator[None]:
    """Turn write errors in the run's folder into RunFolderError with a hint on what to do."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(str(error.filename)).is_relative_to(run.folder):
            raise
        if not run.folder.is_dir():
            raise RunFolderError(f"{run.folder} is gone: it was removed while it trained") from error
        is_recorded = (run.folder / RECORD).is_file()
        again = f"aectl train resume={shlex.quote(str(run.folder))}" if is_recorded else "run the command again"
        first = "free some space" if atomic_write.is_full(error) else "fix that"
        raise RunFolderError(f"{atomic_write.describe_error(error)}\n  {first}, then {again}") from error


def discard_start(run: Run, aside: str | None, is_owner: bool = True) -> None:
    """Remove the files of a start that failed before training, and folders that are empty then.

    If another process owns the folder, only this process's temporary folder `aside` is removed.
    """
    if aside:
        shutil.rmtree(run.folder / aside, ignore_errors=True)
    if is_owner and not (run.folder / RECORD).is_file():
        # On a read-only disk, nothing can be removed either.
        with contextlib.suppress(OSError):
            remove_run_folder(run.folder)


def remove_run_folder(folder: Path) -> None:
    """Remove the folder of a run that never started, and empty parents."""
    for name in ("train.log", ".lock", ".lock.owner", PID):
        (folder / name).unlink(missing_ok=True)
    remove_empty_folders(folder, 3)
