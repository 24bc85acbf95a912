"""What this machine has, found out without torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerated() -> bool:
    """Return whether there is an accelerator that `device=auto` would take: CUDA or MPS."""
    return Path("/proc/driver/nvidia/version").exists() or sys.platform == "darwin"
