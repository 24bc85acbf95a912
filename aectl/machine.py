"""What this machine has, found out without torch."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt's parameters, from malloc.h."""
KEPT_BYTES = 2**30


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerated() -> bool:
    """Return whether there is an accelerator that `device=auto` would take: CUDA or MPS."""
    return Path("/proc/driver/nvidia/version").exists() or sys.platform == "darwin"


def memory_bytes() -> float:
    """Return how much memory this process may have: the machine's, or what its control group or `ulimit -v` allow."""
    limits = [limit for limit in (physical_bytes(), address_bytes(), *group_bytes()) if limit is not None]
    return min(limits, default=math.inf)


def physical_bytes() -> int | None:
    """Return the machine's memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def address_bytes() -> int | None:
    """Return the limit that `ulimit -v` has set, None without one."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def group_bytes(listed: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield the limits of this process's control group and of those above it, in version 2 and in version 1.

    In a container the group's path is often that of the host: what is not there says nothing.
    """
    with contextlib.suppress(OSError):
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds not in ("", "memory"):
                continue
            top, name = (root / "memory", "memory.limit_in_bytes") if kinds else (root, "memory.max")
            place = Path(path.lstrip("/"))
            for part in (place, *place.parents):
                with contextlib.suppress(OSError, ValueError):
                    yield int((top / part / name).read_text(encoding="ascii"))


def keep_memory() -> None:
    """Let the process keep memory that it frees, where the C library is GNU's; elsewhere nothing happens.

    A step frees as much as the next one asks for. Given back in between, it comes back page by page, which takes a
    tenth of a step of a small net.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for parameter in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            library.mallopt(parameter, KEPT_BYTES)


def started_together() -> int:
    """Return how many processes torchrun, or a run of several, has started together; 0 for one that came alone."""
    return int(os.environ.get("WORLD_SIZE", 0))


def is_follower() -> bool:
    """Return whether this process was started to train what another one leads."""
    return started_together() > 1 and int(os.environ.get("RANK", 0)) > 0
