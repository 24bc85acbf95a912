"""Jobs beside each other on this machine, each place a process that takes one after the other."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar, cast

from aectl.config import ConfigError
from aectl.sweep.plan import Planned

TICK_SECONDS = 0.5
LIBRARY = next(place for place in (Path(os.__file__).parent, Path(sys.prefix)) if place.is_dir())
"""Python's own modules, which may be in an archive."""

P = ParamSpec("P")
T = TypeVar("T")

Task = Callable[[Planned], str]
"""Runs a job in a process of its own; returns the last line of its error, or nothing."""


class Watcher:
    """Is told what becomes of the jobs; does nothing by itself."""

    def started(self, job: Planned) -> None:
        """A job begins, or goes on."""

    def ended(self, job: Planned, error: str) -> None:
        """A job has ended; `error` is empty if it went well."""

    def tick(self) -> None:
        """Half a second has passed, or less."""


class Both(Watcher):
    """Tells two watchers, the first one first."""

    def __init__(self, first: Watcher, second: Watcher) -> None:
        self.watchers = (first, second)

    def started(self, job: Planned) -> None:
        for one in self.watchers:
            one.started(job)

    def ended(self, job: Planned, error: str) -> None:
        for one in self.watchers:
            one.ended(job, error)

    def tick(self) -> None:
        for one in self.watchers:
            one.tick()


class Places:
    """As many processes as may run beside each other; a process that is killed takes only its own job with it.

    Ctrl-C and SIGTERM stop all runs at their next step, from where they can go on; a second Ctrl-C kills them. Should
    this process die, its places stop in the same way.
    """

    def __init__(self, number: int, task: Task, watcher: Watcher, fail_fast: bool = False) -> None:
        self.task, self.watcher, self.fail_fast = task, watcher, fail_fast
        self.free = [place() for _ in range(number)]
        self.waiting: Iterator[Planned] = iter(())
        self.running: dict[Future[str], tuple[Planned, Place]] = {}
        self.again: set[int] = set()
        self.signal: int | None = None

    def carry_out(self, jobs: Iterable[Planned]) -> None:
        """Run the jobs in their order, each thought of when there is a place for it.

        Returns when all have ended, and raises KeyboardInterrupt if told to stop.
        """
        self.waiting = iter(jobs)
        with told_to_stop(self.stop):
            while self.fill() or self.running:
                done, _ = wait(self.running, TICK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self.clear(future)
                self.watcher.tick()
        for one in self.free:
            one.shutdown()
        if self.signal is not None:
            raise KeyboardInterrupt

    def fill(self) -> bool:
        """Give each free place the next job; returns whether any began."""
        before = len(self.free)
        for _ in range(before):
            for job in islice(self.waiting, 1):
                self.begin(job)
        return len(self.free) < before

    def begin(self, job: Planned) -> None:
        """Give a free place this job."""
        where = self.free.pop()
        self.watcher.started(job)
        try:
            future = where.submit(self.task, job)
        except BrokenProcessPool:
            # Killed while it had nothing to do.
            where = place()
            future = where.submit(self.task, job)
        self.running[future] = (job, where)
        if self.signal is not None:
            # Told to stop in the meantime.
            tell(signal.SIGTERM)

    def clear(self, future: Future[str]) -> None:
        """Take note of a job that has ended, and free its place."""
        job, where = self.running.pop(future)
        try:
            error = future.result()
        except BrokenProcessPool:
            error, where = "its process was killed", place()
            if not job.status and job.number not in self.again and self.signal is None:
                # Without a record it had not begun: the process may have been killed while it waited.
                self.again.add(job.number)
                self.running[where.submit(self.task, job)] = (job, where)
                return
        except Exception as unexpected:
            error = f"{type(unexpected).__name__}: {unexpected}"
        self.free.append(where)
        if error and self.signal is None:
            job.fail(error)
        self.watcher.ended(job, error)
        if error and self.fail_fast:
            self.stop(None)

    def stop(self, number: int | None) -> None:
        """Start no more jobs, and let those that run save where they are; told a second time, kill them."""
        again, self.signal = self.signal is not None, number or self.signal
        self.waiting = iter(())
        tell(signal.SIGKILL if again else signal.SIGTERM)


def tell(number: int) -> None:
    """Send a signal to all places."""
    for child in active_children():
        os.kill(cast("int", child.pid), number)


class Place(ProcessPoolExecutor):
    """A process, and the tracker of its locks, that take no module of the working folder's for one of Python's."""

    def __init__(self, folder: str) -> None:
        with in_library():
            super().__init__(1, mp_context=get_context("spawn"), initializer=settle, initargs=(folder,))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in the process, which begins with the first one."""
        with in_library():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def in_library() -> Iterator[None]:
    """Work in the folder of Python's own modules within.

    Processes begin as `python -c`, which imports multiprocessing from the working folder, if it is there.
    """
    before = Path.cwd()
    os.chdir(LIBRARY)
    try:
        yield
    finally:
        os.chdir(before)


def place() -> Place:
    """Return a process that has not started yet; it inherits nothing but the environment.

    Raises ConfigError where the system has no shared memory for its locks.
    """
    try:
        return Place(str(Path.cwd()))
    except OSError as error:
        raise ConfigError(
            f"a sweep needs shared memory for its processes: {error.strerror or error}"
            "\n  make /dev/shm writable and larger, as docker run --shm-size=64m does"
        ) from error


def settle(folder: str) -> None:
    """Begin a place: work in the given folder, hear no Ctrl-C of the terminal, stop when the parent is gone."""
    os.chdir(folder)
    if hasattr(os, "setsid"):
        os.setsid()
    parent = cast("BaseProcess", parent_process())

    def follow() -> None:
        parent.join()
        # A run that trains takes the first one as a wish, and saves; what comes after it takes the next one as an end.
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def told_to_stop(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` with the signal on Ctrl-C and SIGTERM, where signals can be heard at all."""

    def heard(number: int, frame: FrameType | None) -> None:
        stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, heard) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
