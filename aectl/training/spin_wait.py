"""OpenMP threads that sleep while they wait for each other, as long as other processes need their cores.

Threads that share a step wait for each other at every product. GNU's OpenMP, which torch uses on Linux, lets them spin
for about a millisecond before they sleep. On an idle machine that is right: OMP_WAIT_POLICY=PASSIVE takes 1.6 times as
long. Next to a busy process it is wrong: the thread that is waited for has to wait for the core on which the other one
spins, and a step takes up to a hundred times as long.
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
from aectl.system.machine import affinity

LOOK_SECONDS = 1.0
MISSING_CORES = 0.5
"""Cores that the threads may lack before those that wait sleep.

Two threads train a VAE 784-400-20 on two cores, one of them used half of the time by another process, in 3.5 to 4.0 s
an epoch if they spin, and in 2.9 to 4.6 if not."""


class SpinLimit:
    """Lets the threads of GNU's OpenMP sleep after some hundred rounds of waiting instead of 300,000.

    libgomp does that by itself while there are more OpenMP threads than cores (GOMP_SPINCOUNT in its manual). So a team
    of idle threads is kept. How work is shared between threads stays as it is, and so does every bit of the results.
    Other implementations of OpenMP are left alone.
    """

    def __init__(self) -> None:
        self.end: threading.Event | None = None
        self.keeper: threading.Thread | None = None

    @property
    def is_on(self) -> bool:
        """Whether waiting threads sleep soon."""
        return self.end is not None

    def start(self, threads: int) -> None:
        """Limit the spinning of a process that computes with so many threads."""
        begun, end = threading.Event(), threading.Event()
        team = max(2, len(affinity()) - threads + 2)
        self.keeper = threading.Thread(target=keep_team, args=(team, begun, end), daemon=True, name="spin limit")
        self.keeper.start()
        begun.wait()
        self.end = end

    def stop(self) -> None:
        """Let threads spin as before."""
        if self.end is not None and self.keeper is not None:
            self.end.set()
            self.keeper.join()
            self.end = self.keeper = None


def keep_team(threads: int, begun: threading.Event, end: threading.Event) -> None:
    """Make a team of idle OpenMP threads that lives as long as this thread does, until `end`."""
    for path in (found["filepath"] for found in threadpool_info() if found["prefix"] == "libgomp"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            # Each thread of the team calls a function of one argument; this one has no effect.
            nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
            library.GOMP_parallel(nothing, None, ctypes.c_uint(threads), ctypes.c_uint(0))
    begun.set()
    end.wait()


class SpinWatch:
    """Limits spinning while other processes leave the process's threads too few cores."""

    def __init__(self, limit: SpinLimit, read: Callable[[], CpuTimes | None] = read_cpu_times) -> None:
        self.limit, self.read, self.threads = limit, read, 1
        self.before: CpuTimes | None = None
        self.thread: threading.Thread | None = None

    def start(self, threads: int) -> None:
        """Watch from now on, once a second, a process that computes with so many threads."""
        self.threads = threads
        if threads > 1 and self.thread is None and self.read() is not None:
            self.thread = threading.Thread(target=self.run, daemon=True, name="spin watch")
            self.thread.start()

    def look(self) -> None:
        """Set or lift the limit by what the CPU was used for since the last look."""
        after = self.read() if self.threads > 1 else None
        is_crowded = False
        if self.before is not None and after is not None:
            is_crowded = free_cores(self.before, after, parallel.local_count()) + MISSING_CORES < self.threads
        self.before = after
        if is_crowded and not self.limit.is_on:
            self.limit.start(self.threads)
        elif not is_crowded:
            self.limit.stop()

    def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)


process_watch = SpinWatch(SpinLimit())
"""Of this process."""
