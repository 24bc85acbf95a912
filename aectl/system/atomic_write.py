"""Files that are whole or absent, whatever happens while they are written: a kill, a full disk, a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY_NAME = re.compile(r"\.(?P<file>.+)\.(?P<pid>\d+)@(?P<host>.*)\.aside")
ABANDONED_SECONDS = 3600.0
"""Age of a file that was left aside by a process of another machine, of which nothing else is known."""


@contextlib.contextmanager
def write_atomically(path: Path, *, keep: Path | None = None, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a file aside, for the caller to write, and put it in the place of `path` once it is on disk.

    What was there before becomes `keep`, if that is given: at every instant one of the two is whole. `sync=False` is
    for what can be made again: it survives a kill, not a power cut. Raises OSError, which always names the file.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.aside")
    try:
        with name_path_in_errors(path):
            with aside.open("wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            if keep is not None and path.exists():
                keep_as(path, keep)
            aside.replace(path)
            if sync:
                sync_folder(path.parent)
    finally:
        # On a file system that has become read-only even this is refused, and the first error says more.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def keep_as(path: Path, keep: Path) -> None:
    """Give a file its second name `keep`; where there are no second names, it loses the first."""
    link = keep.with_name(f".{keep.name}.{os.getpid()}@{socket.gethostname()}.aside")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(keep)
    except OSError:
        path.replace(keep)
    finally:
        # Two names of one file are not replaced by each other: the call does nothing, and says so to nobody.
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk; where folders cannot be opened so, as on Windows, nothing is done."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextlib.contextmanager
def name_path_in_errors(path: Path) -> Iterator[None]:
    """Let OSErrors of what is within, also those that torch hides, tell the path if they tell none of the user's."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        system = error if isinstance(error, OSError) else error.__context__
        if not isinstance(system, OSError) or system.errno is None:
            raise
        # TensorBoard's names are bytes.
        if system is error and isinstance(system.filename, str) and not system.filename.endswith(".aside"):
            raise
        raise OSError(system.errno, system.strerror, str(path)) from error


def is_full(error: OSError) -> bool:
    """Return whether there was no room to write, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def describe_error(error: OSError, where: str | Path = "a file") -> str:
    """Return what could not be written or read; `where`, if the error does not tell."""
    path = error.filename or where
    return (
        f"the disk is full: cannot write {path}" if is_full(error) else f"cannot write or read {path}: {error.strerror}"
    )


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that are no more have left aside in a folder."""
    for path in folder.glob(".*.aside"):
        if (match := TEMPORARY_NAME.fullmatch(path.name)) and is_abandoned(path, int(match["pid"]), match["host"]):
            with contextlib.suppress(OSError):
                path.unlink()


def is_abandoned(path: Path, pid: int, host: str) -> bool:
    """Return whether nobody writes a file any more that was opened aside by a process of a machine."""
    if host == socket.gethostname():
        return not is_alive(pid)
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    return False


def is_alive(pid: int) -> bool:
    """Return whether there is a process of this number on this machine, whoever owns it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
