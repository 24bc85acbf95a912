"""Observer that warns if other processes slow down training by using the cores that its threads need."""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aectl import parallel
from aectl.system.idle_cores import CpuTimes, free_cores, read_cpu_times
from aectl.system.machine import count_usable_cores, whole_cores
from aectl.system.terminal import display_path, format_significant
from aectl.training.trainer import Epoch, Observer

if TYPE_CHECKING:
    from aectl.models.base import Stage
    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

WINDOW_SECONDS = 15.0
"""Time spent in steps between two checks; a process that ends sooner is not worth a warning."""
SLOWDOWN = 2.0
"""Mean step time, relative to the fastest step of the stage, from which on a warning is logged.

On an idle machine it is 1.2 to 1.5. With another process on one of two cores it is 2.2 to 2.6 with `spin_wait.py`, and
10 to 100 where that has no effect."""


class CpuContention(Observer):
    """Warns once if steps are slow while other processes use cores that the run's threads need.

    The number of threads is not changed, since the last bits of the results depend on it. Only the time between two
    steps of an epoch counts, without validation and checkpoints. The slowest step of a window is left out, since the
    machine may have been asleep.
    """

    fatal = ()

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[], CpuTimes | None] = read_cpu_times,
    ) -> None:
        self.folder, self.clock, self.read = folder, clock, read
        self.stage: Stage | None = None
        self.fastest = math.inf

    def started(self, trainer: Trainer) -> None:
        self.last: float | None = None
        self.begin_window()
        on_cpu = trainer.device.torch.type == "cpu"
        self.is_watching = on_cpu and trainer.device.threads > 1 and self.before is not None

    def begin_window(self) -> None:
        """Reset the step times and read the CPU times."""
        self.steps, self.spent, self.slowest = 0, 0.0, 0.0
        self.before = self.read()

    def stepped(self, trainer: Trainer) -> None:
        if not self.is_watching:
            return
        now = self.clock()
        if trainer.stage is not self.stage:
            # Steps of another stage may be faster or slower.
            self.stage, self.fastest, self.last = trainer.stage, math.inf, None
            self.begin_window()
        if self.last is not None:
            seconds = now - self.last
            self.steps += 1
            self.spent += seconds
            self.fastest, self.slowest = min(self.fastest, seconds), max(self.slowest, seconds)
            if self.spent >= WINDOW_SECONDS:
                self.check_window(trainer)
        self.last = now

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        self.last = None

    def check_window(self, trainer: Trainer) -> None:
        """Warn if the window's steps were slow and too few cores were free."""
        after, processes = self.read(), parallel.local_count()
        times = (self.spent - self.slowest) / max(self.steps - 1, 1) / self.fastest
        if self.before is not None and after is not None and times >= SLOWDOWN:
            free, cores = free_cores(self.before, after, processes), count_usable_cores()
            threads = whole_cores(free) // processes
            if whole_cores(free) < cores and threads < trainer.device.threads:
                self.is_watching = False
                used = min(cores, round(cores - free))
                log.warning(
                    "other processes use %d of %d cores: steps take %s times as long as the fastest one\n"
                    "  faster: Ctrl-C, then aectl train resume=%s device.threads=%d",
                    *(
                        used,
                        cores,
                        format_significant(times, 2),
                        shlex.quote(display_path(self.folder)),
                        max(threads, 1),
                    ),
                )
        self.begin_window()
