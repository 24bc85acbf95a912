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
MALLOC_KEEP_BYTES = 2**30

PROCESS_BYTES = 250e6
"""What a process takes that has PyTorch and no model yet."""

SPARE_CORE = 0.25
"""Share of a core that other processes may use before it counts as busy.

A VAE 784-400-20 on two cores, one of them used for a share by another process: two threads take 2.1 s an epoch (share
0), 2.2 (.1), 2.6 (.2 and .3) and 4.5 (.5), one thread 2.7 to 2.9."""


class NotEnoughMemory(ValueError):
    """An array or a model is larger than this machine's memory."""


def count_usable_cores() -> int:
    """Return the number of cores this process may use by its affinity and its CPU quota, at least 1."""
    return whole_cores(min([float(len(allowed_cores())), *(quota for quota, _ in read_cpu_quotas())]))


def allowed_cores() -> set[int]:
    """Return the numbers of the cores this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def whole_cores(cores: float) -> int:
    """Return how many threads keep so many cores busy, at least 1; a core that is nearly free counts as one."""
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
    """Yield the memory limits of this process's control groups."""
    for kind, group in control_groups("memory", listed, root):
        with contextlib.suppress(OSError, ValueError):
            yield read_integer(group / ("memory.limit_in_bytes" if kind else "memory.max"))


def read_integer(path: Path) -> int:
    """Return the number that a file of the system holds; raises ValueError for another text, such as `max`."""
    return int(path.read_text(encoding="ascii"))


def control_groups(controller: str, listed: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the folders of the control groups that limit this process and those above them.

    The first item is the controller in version 1 and empty in version 2. In a container the group's path is often that
    of the host: folders may be missing.
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
    """Let the process keep memory that it frees, where the C library is GNU's; elsewhere nothing happens.

    A step frees as much as the next one asks for. Given back in between, it comes back page by page, which takes a
    tenth of a step of a small net.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for parameter in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            library.mallopt(parameter, MALLOC_KEEP_BYTES)


def launched_processes() -> int:
    """Return how many processes torchrun, or a run of several, has started together; 0 for one that came alone."""
    return int(os.environ.get("WORLD_SIZE", 0))


def is_follower() -> bool:
    """Return whether this process was started to train what another one leads."""
    return launched_processes() > 1 and int(os.environ.get("RANK", 0)) > 0
