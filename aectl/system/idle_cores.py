"""Measure the cores that other processes leave idle, to choose the number of threads.

Threads of one step wait for each other at every matrix product. If another process uses one of two cores, one thread is
faster than two.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aectl.system.machine import allowed_cores, count_usable_cores, read_cpu_quotas, whole_cores

log = logging.getLogger("aectl")

STAT = Path("/proc/stat")
WINDOW_SECONDS, WINDOWS = 0.2, 3
"""If the machine is idle in the first window, the measurement ends. Otherwise the median of all windows counts, so that
a command that is just ending does not."""


@dataclass(frozen=True)
class CpuTimes:
    """CPU times at one moment.

    `pools` are pairs for the machine and for each CPU quota: the number of cores, and the CPU seconds used by all
    processes. `own` are the CPU seconds used by this process.
    """

    wall: float
    own: float
    pools: tuple[tuple[float, float], ...]


def read_cpu_times() -> CpuTimes | None:
    """Return the current CPU times; None without /proc/stat."""
    try:
        busy = busy_seconds(
            STAT.read_text(encoding="ascii", errors="replace"), allowed_cores(), os.sysconf("SC_CLK_TCK")
        )
    except (OSError, ValueError, AttributeError):
        return None
    return CpuTimes(time.monotonic(), time.process_time(), ((float(len(allowed_cores())), busy), *read_cpu_quotas()))


def busy_seconds(stat: str, cores: Collection[int], ticks_per_second: float) -> float:
    """Return the CPU seconds used on `cores` by all processes, from the text of /proc/stat.

    Time stolen by other virtual machines counts as used, time waiting for a disk does not. If no core is listed under
    its number, as in some containers, all listed cores count. Raises ValueError if there are none.
    """
    words = [line.split() for line in stat.splitlines() if line.startswith("cpu")]
    listed = {name[3:]: [*map(int, ticks)] for name, *ticks in words if name != "cpu"}
    chosen = [listed[str(core)] for core in cores if str(core) in listed] or [*listed.values()]
    if not chosen:
        raise ValueError("/proc/stat lists no cores")
    # user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
    return sum(sum(ticks[:3]) + sum(ticks[5:8]) for ticks in chosen) / ticks_per_second


def free_cores(before: CpuTimes, after: CpuTimes, processes: int = 1) -> float:
    """Return the cores that other processes left idle between two moments; excludes `processes` like this one."""
    seconds = max(after.wall - before.wall, 1e-9)
    own = processes * (after.own - before.own)
    pairs = zip(before.pools, after.pools, strict=False)
    return min(cores - max(now - then - own, 0.0) / seconds for (cores, then), (_, now) in pairs)


def measure_free_cores(
    read: Callable[[], CpuTimes | None] = read_cpu_times, sleep: Callable[[float], None] = time.sleep
) -> float | None:
    """Measure the cores that other processes leave idle while this one sleeps; None without /proc/stat."""
    if (before := read()) is None:
        return None
    windows: list[float] = []
    for _ in range(WINDOWS):
        sleep(WINDOW_SECONDS)
        if (after := read()) is None:
            return None
        windows.append(free_cores(before, after))
        if whole_cores(windows[0]) >= count_usable_cores():
            return windows[0]
        before = after
    return median(windows)


def count_running(sleep: Callable[[float], None] = time.sleep) -> int:
    """Return the number of other processes that are running in every call of `ps`; 0 without `ps`."""
    running: list[set[str]] = []
    for _ in range(WINDOWS):
        try:
            listed = subprocess.run(
                ["ps", "-A", "-o", "pid=", "-o", "stat="],
                capture_output=True,
                encoding="ascii",
                errors="replace",
                check=True,
                timeout=5,
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return 0
        words = map(str.split, listed.splitlines())
        running.append({word[0] for word in words if len(word) > 1 and word[1].startswith("R")})
        sleep(WINDOW_SECONDS / 2)
    return len(set.intersection(*running) - {str(os.getpid())})


@functools.cache
def count_idle_cores() -> int:
    """Return the number of usable cores that other processes leave idle, at least 1; measured once per process.

    All runs of a process get the same number, so that the runs of a sweep are comparable.
    """
    if (usable := count_usable_cores()) == 1:
        return 1
    free = measure_free_cores()
    if free is None:
        # Not the load average, which includes a command that has just ended for a minute.
        free = float(usable - count_running())
    idle = min(usable, whole_cores(free))
    if idle < usable:
        log.info("other processes use %d of %d cores: using %d", min(usable, round(usable - free)), usable, idle)
    return idle
