"""Write files atomically: after a kill, a full disk or a power cut, a file is whole or absent."""

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
"""Age at which a temporary file from another machine counts as abandoned."""


@contextlib.contextmanager
def write_atomically(path: Path, *, keep: Path | None = None, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing, and rename it to `path` after the block.

    The previous file is renamed to `keep` if given; at any time one of the two is whole. With `sync=False` the file
    survives a kill, but not a power cut. Raises OSError, always with the path.
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
        # Also fails on a read-only file system, where the first error is the useful one.
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def keep_as(path: Path, keep: Path) -> None:
    """Hard-link a file as `keep`; rename it where hard links are not supported."""
    link = keep.with_name(f".{keep.name}.{os.getpid()}@{socket.gethostname()}.aside")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(keep)
    except OSError:
        path.replace(keep)
    finally:
        # `replace` silently does nothing if both names already are links to one file.
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk; does nothing where folders cannot be opened, as on Windows."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextlib.contextmanager
def name_path_in_errors(path: Path) -> Iterator[None]:
    """Add the path to an OSError in the block, also to one that torch wraps, unless it has a user's path."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        system = error if isinstance(error, OSError) else error.__context__
        if not isinstance(system, OSError) or system.errno is None:
            raise
        # TensorBoard uses bytes as file names.
        if system is error and isinstance(system.filename, str) and not system.filename.endswith(".aside"):
            raise
        raise OSError(system.errno, system.strerror, str(path)) from error


def is_full(error: OSError) -> bool:
    """Return whether the disk is full or the user's quota is exceeded."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def describe_error(error: OSError, where: str | Path = "a file") -> str:
    """Return a message with the path of the error, or `where` if it has none."""
    path = error.filename or where
    return (
        f"the disk is full: cannot write {path}" if is_full(error) else f"cannot write or read {path}: {error.strerror}"
    )


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of ended processes from a folder."""
    for path in folder.glob(".*.aside"):
        if (match := TEMPORARY_NAME.fullmatch(path.name)) and is_abandoned(path, int(match["pid"]), match["host"]):
            with contextlib.suppress(OSError):
                path.unlink()


def is_abandoned(path: Path, pid: int, host: str) -> bool:
    """Return whether the process that opened a temporary file on `host` has ended."""
    if host == socket.gethostname():
        return not is_alive(pid)
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    return False


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine, of any user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
