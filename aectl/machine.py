"""What this machine has, found out without torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
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
