"""A run's folder has one owner at a time: who trains there holds its lock, and nobody else changes anything in it.

Hydra writes its config before any of our code runs. It does so aside, in a folder of the process, and only the owner
puts that in its place: what is refused leaves the config of the run as it was.
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
"""The owner's process id: run.json has it only once all is ready, and that of the start before until then."""
LONGEST_PID = 20
"""Digits; Python makes no number of some thousand."""
OWNER_WAIT_SECONDS = 0.5
"""For an owner of a moment to have written its process id."""


class RunLockedError(ConfigError):
    """A run that another process trains: nothing in its folder may be touched."""


class RunFolderError(OSError):
    """A run's folder that cannot be written to, or is no more, and what to do about it."""


def lock_run(config: DictConfig, run: Run) -> FileLock:
    """Return the lock of the run's folder, held; raises ConfigError if it is another run's or being trained."""
    lock = FileLock(run.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = lock.owner() if lock.owner_path.is_file() else f"process {find_owner(run)}"
        raise RunLockedError(f"{run.folder} is being trained by {who}") from None
    if (run.folder / RECORD).is_file() and not config.resume:
        lock.release()
        raise ConfigError(
            f"{run.folder} holds a run already; aectl train resume={shlex.quote(str(run.folder))} goes on with it"
        )
    (run.folder / PID).write_text(str(os.getpid()), encoding="ascii")
    remove_leftovers(run)
    return lock


def remove_leftovers(run: Run) -> None:
    """Remove what killed processes have left half done in a run's folder, which is one's own."""
    for folder in (run.folder, run.folder / "checkpoints"):
        atomic_write.remove_abandoned(folder)
    for aside in run.folder.glob(".hydra~*"):
        number = aside.name.partition("~")[2]
        if number != str(os.getpid()) and not (number.isdecimal() and is_alive(int(number))):
            shutil.rmtree(aside, ignore_errors=True)


def find_owner(run: Run) -> int | str:
    """Return the process that holds the lock of a run's folder, as far as its files tell."""
    end = time.monotonic() + OWNER_WAIT_SECONDS
    while time.monotonic() < end:
        path = run.folder / PID
        text = path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""
        if text.isdecimal() and len(text) < LONGEST_PID and is_alive(int(text)):
            return int(text)
        time.sleep(0.01)
    known = run.record.get("pid") if (run.folder / RECORD).is_file() else None
    return known or "that has only begun"


def adopt_hydra_folder(run: Run, aside: str | None) -> None:
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


@contextlib.contextmanager
def explain_write_errors(run: Run) -> Iterator[None]:
    """Add to errors of the run's folder, from within, what can be done about them."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(str(error.filename)).is_relative_to(run.folder):
            raise
        if not run.folder.is_dir():
            raise RunFolderError(f"{run.folder} is gone: it was removed while it trained") from error
        goes_on = (run.folder / RECORD).is_file()
        again = f"aectl train resume={shlex.quote(str(run.folder))}" if goes_on else "type the command again"
        first = "free some space" if atomic_write.is_full(error) else "fix that"
        raise RunFolderError(f"{atomic_write.describe_error(error)}\n  {first}, then {again}") from error


def discard_start(run: Run, aside: str | None, is_owner: bool = True) -> None:
    """Remove what a start that never began left in its folder, and folders that are empty then, but not the present.

    Of a folder that has an owner only what is one's own.
    """
    if aside:
        shutil.rmtree(run.folder / aside, ignore_errors=True)
    if is_owner and not (run.folder / RECORD).is_file():
        # On a disk that cannot be written to nothing can be removed either.
        with contextlib.suppress(OSError):
            remove_run_folder(run.folder)


def remove_run_folder(folder: Path) -> None:
    """Remove the folder of a run that never began, and those above that are empty then."""
    for name in ("train.log", ".lock", ".lock.owner", PID):
        (folder / name).unlink(missing_ok=True)
    remove_empty_folders(folder, 3)
