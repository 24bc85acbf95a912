"""Locks between processes that also work on file systems without locks, such as some network file systems."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock as WindowsLock
from filelock import Timeout

from aectl.system import atomic_write

try:
    import fcntl
except ImportError:
    # On Windows, filelock is used.
    fcntl = None  # type: ignore[assignment]

__all__ = ["FileLock", "Timeout"]

log = logging.getLogger("aectl")

HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
REFUSED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of `flock` if another process has the lock, and on a file system without locks."""
POLL_SECONDS, LOG_AFTER_SECONDS = 0.1, 1.0
EMPTY_FILE_SECONDS = 10.0
"""Age at which an empty owner file counts as left by a killed process; writing it takes a moment."""


class FileLock:
    """A lock for one process at a time: `flock` on a file, or where that is refused, a second file `.owner`.

    The owner file has process id and host. If a process of this host left it behind, the lock is taken over. The file
    of another host must be removed by hand; messages say so.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.owner_path = self.path.with_name(f"{self.path.name}.owner")
        self.number: int | None = None
        self.windows: WindowsLock | None = None
        self.owns_file = False

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self.owns_file or self.number is not None or self.windows is not None

    def acquire(self, timeout: float = -1, purpose: str = "") -> None:
        """Acquire the lock within `timeout` seconds, without limit if negative; raises Timeout or OSError.

        A wait of more than a second is logged with `purpose`, what the owner does.
        """
        began = time.monotonic()
        is_logged = False
        while not self.try_acquire():
            waited = time.monotonic() - began
            if 0 <= timeout <= waited:
                raise Timeout(str(self.path))
            if waited > LOG_AFTER_SECONDS and not is_logged:
                log.info("waiting for %s%s", self.describe_owner(), f", which {purpose}" if purpose else "")
                is_logged = True
            time.sleep(POLL_SECONDS)

    def try_acquire(self) -> bool:
        """Try once to acquire the lock."""
        if fcntl is None:
            return self.try_acquire_windows()
        number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous owner may have removed the file.
            if os.fstat(number).st_nlink:
                self.number, number = number, -1
                return True
        except OSError as error:
            if error.errno in REFUSED:
                warn_of_refusal(self.path, error.strerror or "")
                return self.create_owner_file()
            if error.errno not in HELD:
                raise
        finally:
            if number >= 0:
                os.close(number)
        return False

    def try_acquire_windows(self) -> bool:
        """Try once to acquire the lock with filelock."""
        lock = WindowsLock(self.path)
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=0)
            self.windows = lock
        return self.windows is not None

    def create_owner_file(self) -> bool:
        """Try once to create the owner file."""
        if is_owner_gone(self.owner_path):
            self.remove_dead_owner()
        try:
            number = os.open(self.owner_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()}@{socket.gethostname()}")
        self.owns_file = True
        return True

    def remove_dead_owner(self) -> None:
        """Remove the owner file of an ended process, but not one that another process has just created."""
        aside = self.owner_path.with_name(f"{self.owner_path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self.owner_path.replace(aside)
            if not is_owner_gone(aside):
                os.link(aside, self.owner_path)
            aside.unlink()

    def describe_owner(self) -> str:
        """Describe the owner of the lock for a message."""
        pid, host = read_owner(self.owner_path)
        if pid is None:
            return f"another process (lock {self.path})"
        if host == socket.gethostname():
            return f"process {pid}"
        return f"process {pid} of {host} (if that has ended, remove {self.owner_path})"

    def release(self) -> None:
        """Release the lock if it is held."""
        if self.number is not None:
            os.close(self.number)
            self.number = None
        if self.windows is not None:
            self.windows.release()
            self.windows = None
        if self.owns_file:
            self.owns_file = False
            with contextlib.suppress(OSError):
                self.owner_path.unlink()

    def __del__(self) -> None:
        self.release()

    @contextlib.contextmanager
    def hold(self, timeout: float = -1, purpose: str = "") -> Iterator[None]:
        """Hold the lock during the block; see `acquire`."""
        self.acquire(timeout, purpose)
        try:
            yield
        finally:
            self.release()


def read_owner(path: Path) -> tuple[int | None, str]:
    """Return process id and host in an owner file; None and an empty host if it is damaged."""
    try:
        pid, _, host = path.read_text(encoding="utf-8", errors="replace").partition("@")
        return int(pid), host
    except (OSError, ValueError):
        return None, ""


def is_owner_gone(path: Path) -> bool:
    """Return whether the process of an owner file has ended."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return False
    pid, host = read_owner(path)
    if pid is None:
        return time.time() - written > EMPTY_FILE_SECONDS
    return host == socket.gethostname() and (written < boot_time() or not atomic_write.is_alive(pid))


def boot_time() -> float:
    """Return the time when this machine started, 0 if unknown; older process ids are not valid."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0.0


WARNED: set[str] = set()


def warn_of_refusal(path: Path, reason: str) -> None:
    """Warn once for each reason that a file system does not support locks."""
    if reason not in WARNED:
        WARNED.add(reason)
        log.warning("%s: no file locks here (%s), using files with process ids instead", path.parent, reason)
