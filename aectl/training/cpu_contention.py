"""Training that other processes slow down, by taking cores that its threads need."""

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
from aectl.system.machine import usable_cores, whole_cores
from aectl.system.terminal import shown, significant
from aectl.training.trainer import Epoch, Observer

if TYPE_CHECKING:
    from aectl.models.base import Stage
    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

WINDOW_SECONDS = 15.0
"""Time spent in steps after which they are judged: a neighbour that is gone by then is not worth a line."""
TIMES_SLOWER = 2.0
"""Than the fastest step of the stage. On an idle machine the mean is 1.2 to 1.5 times as slow; where another process
holds one of two cores, 2.2 to 2.6 times with `spin_wait.py`, and 10 to 100 times where that has no effect."""


class CpuContention(Observer):
    """Warns once if steps are slow and other processes use the cores that the run's threads would need.

    The number of threads stays as it is, since the results depend on it to the last bit. Steps are timed from one to
    the next, so that neither validation nor checkpoints count. The slowest step of a window is left out: the machine
    may have been asleep.
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
        """Count steps anew."""
        self.steps, self.spent, self.slowest = 0, 0.0, 0.0
        self.before = self.read()

    def stepped(self, trainer: Trainer) -> None:
        if not self.is_watching:
            return
        now = self.clock()
        if trainer.stage is not self.stage:
            # Its steps may be of another size.
            self.stage, self.fastest, self.last = trainer.stage, math.inf, None
            self.begin_window()
        if self.last is not None:
            seconds = now - self.last
            self.steps += 1
            self.spent += seconds
            self.fastest, self.slowest = min(self.fastest, seconds), max(self.slowest, seconds)
            if self.spent >= WINDOW_SECONDS:
                self.judge(trainer)
        self.last = now

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        self.last = None

    def judge(self, trainer: Trainer) -> None:
        """Warn if the window's steps were slow for want of cores."""
        after, processes = self.read(), parallel.local_count()
        times = (self.spent - self.slowest) / max(self.steps - 1, 1) / self.fastest
        if self.before is not None and after is not None and times >= TIMES_SLOWER:
            free, cores = free_cores(self.before, after, processes), usable_cores()
            threads = whole_cores(free) // processes
            if whole_cores(free) < cores and threads < trainer.device.threads:
                self.is_watching = False
                used = min(cores, round(cores - free))
                log.warning(
                    "other processes use %d of %d cores: steps take %s times as long as the fastest one\n"
                    "  faster: Ctrl-C, then aectl train resume=%s device.threads=%d",
                    *(used, cores, significant(times, 2), shlex.quote(shown(self.folder)), max(threads, 1)),
                )
        self.begin_window()
