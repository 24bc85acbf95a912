"""Cores, memory and accelerators of this machine, found without importing torch."""

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
MALLOC_KEEP_BYTES = 2**30

PROCESS_BYTES = 250e6
"""Memory of a process that has imported PyTorch, without a model."""

SPARE_CORE = 0.25
"""Share of a core that other processes may use before the core counts as busy.

Measured with a VAE 784-400-20 on two cores, one of them partly used by another process: with two threads an epoch takes
2.1 s (share 0), 2.2 s (.1), 2.6 s (.2 and .3) and 4.5 s (.5), with one thread 2.7 to 2.9 s."""


class NotEnoughMemory(ValueError):
    """An array or a model is larger than this machine's memory."""


def count_usable_cores() -> int:
    """Return the number of cores that affinity and CPU quota allow this process, at least 1."""
    return whole_cores(min([float(len(allowed_cores())), *(quota for quota, _ in read_cpu_quotas())]))


def allowed_cores() -> set[int]:
    """Return the numbers of the cores this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def whole_cores(cores: float) -> int:
    """Round down to whole cores, at least 1; a core that is nearly idle counts."""
    return max(1, int(cores + SPARE_CORE))


def read_cpu_quotas(
    listed: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[float, float]]:
    """Yield each CPU quota of this process's control groups, in cores, and the CPU seconds its group has used."""
    for kind, group in control_groups("cpu", listed, root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            if kind:
                quota, period = (read_integer(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            else:
                quota, period = map(int, (group / "cpu.max").read_text(encoding="ascii").split())
            if quota > 0:
                yield quota / period, cpu_seconds(kind, group, root)


def cpu_seconds(kind: str, group: Path, root: Path) -> float:
    """Return the CPU seconds that a control group has used, 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if kind:
            return read_integer(root / "cpuacct" / group.relative_to(root / kind) / "cpuacct.usage") / 1e9
        pairs = (line.split() for line in (group / "cpu.stat").read_text(encoding="ascii").splitlines())
        return int(dict(pairs)["usage_usec"]) / 1e6
    return 0.0


def has_accelerator() -> bool:
    """Return whether there is an accelerator for `device=auto`, CUDA or MPS."""
    return Path("/proc/driver/nvidia/version").exists() or sys.platform == "darwin"


def memory_bytes() -> float:
    """Return the bytes of memory that machine, control groups and `ulimit -v` allow this process."""
    limits = [limit for limit in (physical_bytes(), address_bytes(), *group_bytes()) if limit is not None]
    return min(limits, default=math.inf)


def physical_bytes() -> int | None:
    """Return the machine's memory in bytes, None if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def address_bytes() -> int | None:
    """Return the limit of `ulimit -v` in bytes, None without one."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def group_bytes(listed: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield the memory limits of this process's control groups."""
    for kind, group in control_groups("memory", listed, root):
        with contextlib.suppress(OSError, ValueError):
            yield read_integer(group / ("memory.limit_in_bytes" if kind else "memory.max"))


def read_integer(path: Path) -> int:
    """Read an integer from a system file; raises ValueError for other text such as `max`."""
    return int(path.read_text(encoding="ascii"))


def control_groups(controller: str, listed: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the folders of this process's control groups and of their parents.

    The first item is the controller for version 1 and empty for version 2. In a container, the path is often that of
    the host, so folders may be missing.
    """
    with contextlib.suppress(OSError):
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and controller not in kinds.split(","):
                continue
            kind = controller if kinds else ""
            place = Path(path.lstrip("/"))
            for part in (place, *place.parents):
                yield kind, root / kind / part


def keep_memory() -> None:
    """Make glibc keep freed memory in the process; does nothing with other C libraries.

    Each step frees as much as the next one allocates. Returning the memory to the system in between costs page faults,
    a tenth of a step for a small net.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for parameter in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            library.mallopt(parameter, MALLOC_KEEP_BYTES)


def launched_processes() -> int:
    """Return the number of processes launched together by torchrun or `device.count`; 0 for a single process."""
    return int(os.environ.get("WORLD_SIZE", 0))


def is_follower() -> bool:
    """Return whether this is a follower process of a multi-process run."""
    return launched_processes() > 1 and int(os.environ.get("RANK", 0)) > 0
