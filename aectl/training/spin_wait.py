"""Limits the spinning of idle OpenMP threads while other processes need the cores.

Threads synchronise at every matrix product. GNU's OpenMP, which torch uses on Linux, lets a waiting thread spin for
about a millisecond before it sleeps. On an idle machine spinning is faster: OMP_WAIT_POLICY=PASSIVE takes 1.6 times as
long. Next to a busy process, a spinning thread occupies the core that the thread it waits for needs, and a step takes
up to a hundred times as long.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable

from threadpoolctl import threadpool_info

from aectl import parallel
from aectl.system.idle_cores import CpuTimes, free_cores, read_cpu_times
from aectl.system.machine import allowed_cores

INTERVAL_SECONDS = 1.0
TOLERATED_SHORTAGE = 0.5
"""Cores that the threads may lack before spinning is limited.

With another process on one of two cores half of the time, two threads train a VAE 784-400-20 in 3.5 to 4.0 s per epoch
with spinning, and in 2.9 to 4.6 s without."""


class SpinLimit:
    """Makes threads of GNU's OpenMP sleep after some hundred spins instead of 300,000.

    libgomp does so while there are more OpenMP threads than cores (GOMP_SPINCOUNT in its manual), so this class keeps a
    team of idle threads alive. Work is divided among threads as before, so results are equal to the bit. Other
    implementations of OpenMP are not affected.
    """

    def __init__(self) -> None:
        self.end: threading.Event | None = None
        self.keeper: threading.Thread | None = None

    @property
    def is_on(self) -> bool:
        """Whether spinning is limited."""
        return self.end is not None

    def start(self, threads: int) -> None:
        """Limit the spinning of a process that computes with `threads` threads."""
        ready, end = threading.Event(), threading.Event()
        team = max(2, len(allowed_cores()) - threads + 2)
        self.keeper = threading.Thread(target=keep_team, args=(team, ready, end), daemon=True, name="spin limit")
        self.keeper.start()
        ready.wait()
        self.end = end

    def stop(self) -> None:
        """Lift the limit."""
        if self.end is not None and self.keeper is not None:
            self.end.set()
            self.keeper.join()
            self.end = self.keeper = None


def keep_team(threads: int, ready: threading.Event, end: threading.Event) -> None:
    """Keep a team of idle OpenMP threads alive until `end` is set; sets `ready` once it exists."""
    for path in (found["filepath"] for found in threadpool_info() if found["prefix"] == "libgomp"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            # Each thread of the team calls this function, which has no effect.
            nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
            library.GOMP_parallel(nothing, None, ctypes.c_uint(threads), ctypes.c_uint(0))
    ready.set()
    end.wait()


class SpinWatch:
    """Background thread that limits spinning while other processes leave too few cores."""

    def __init__(self, limit: SpinLimit, read: Callable[[], CpuTimes | None] = read_cpu_times) -> None:
        self.limit, self.read, self.threads = limit, read, 1
        self.before: CpuTimes | None = None
        self.thread: threading.Thread | None = None

    def start(self, threads: int) -> None:
        """Start to check once per second whether `threads` threads have enough cores."""
        self.threads = threads
        if threads > 1 and self.thread is None and self.read() is not None:
            self.thread = threading.Thread(target=self.run, daemon=True, name="spin watch")
            self.thread.start()

    def update_limit(self) -> None:
        """Set or lift the limit according to the CPU usage since the last call."""
        after = self.read() if self.threads > 1 else None
        is_crowded = False
        if self.before is not None and after is not None:
            is_crowded = free_cores(self.before, after, parallel.local_count()) + TOLERATED_SHORTAGE < self.threads
        self.before = after
        if is_crowded and not self.limit.is_on:
            self.limit.start(self.threads)
        elif not is_crowded:
            self.limit.stop()

    def run(self) -> None:
        """Update the limit once per second, forever."""
        while True:
            self.update_limit()
            time.sleep(INTERVAL_SECONDS)


process_watch = SpinWatch(SpinLimit())
"""The watch of this process."""
