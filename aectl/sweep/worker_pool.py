"""A pool of worker processes on this machine, each of which runs one job of a sweep at a time."""

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
from aectl.sweep.plan import PlannedJob

TICK_SECONDS = 0.5
PYTHON_LIBRARY = next(folder for folder in (Path(os.__file__).parent, Path(sys.prefix)) if folder.is_dir())
"""Folder of the standard library; the prefix if the library is in an archive."""

P = ParamSpec("P")
T = TypeVar("T")

JobFunction = Callable[[PlannedJob], str]
"""Runs a job in the process that calls it; returns the last line of its error, or the empty text."""


class JobObserver:
    """Base class of objects that follow the jobs of a sweep. Every method does nothing by default."""

    def started(self, job: PlannedJob) -> None:
        """Called before a job starts or resumes."""

    def ended(self, job: PlannedJob, error: str) -> None:
        """Called after a job ended; `error` is empty if it succeeded."""

    def tick(self) -> None:
        """Called at least every `TICK_SECONDS` while jobs run."""


class ObserverPair(JobObserver):
    """Passes each call to two observers in turn."""

    def __init__(self, first: JobObserver, second: JobObserver) -> None:
        self.observers = (first, second)

    def started(self, job: PlannedJob) -> None:
        for one in self.observers:
            one.started(job)

    def ended(self, job: PlannedJob, error: str) -> None:
        for one in self.observers:
            one.ended(job, error)

    def tick(self) -> None:
        for one in self.observers:
            one.tick()


class WorkerPool:
    """Runs jobs in a fixed number of worker processes; a worker that is killed loses only its own job.

    Ctrl-C and SIGTERM stop all runs at their next step, after which they can resume. A second signal kills them.
    If this process dies, its workers stop in the same way.
    """

    def __init__(self, count: int, run_job: JobFunction, observer: JobObserver, fail_fast: bool = False) -> None:
        self.run_job, self.observer, self.fail_fast = run_job, observer, fail_fast
        self.idle = [make_worker() for _ in range(count)]
        self.pending: Iterator[PlannedJob] = iter(())
        self.running: dict[Future[str], tuple[PlannedJob, Worker]] = {}
        self.retried: set[int] = set()
        self.signal: int | None = None

    def run(self, jobs: Iterable[PlannedJob]) -> None:
        """Run the jobs in order and return when all have ended.

        The next job is taken from `jobs` only when a worker is idle. Raises KeyboardInterrupt if a signal stopped them.
        """
        self.pending = iter(jobs)
        with handle_stop_signals(self.stop):
            while self.start_pending() or self.running:
                done, _ = wait(self.running, TICK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    self.handle_result(future)
                self.observer.tick()
        for one in self.idle:
            one.shutdown()
        if self.signal is not None:
            raise KeyboardInterrupt

    def start_pending(self) -> bool:
        """Give each idle worker a pending job; return whether any job started."""
        before = len(self.idle)
        for _ in range(before):
            for job in islice(self.pending, 1):
                self.start(job)
        return len(self.idle) < before

    def start(self, job: PlannedJob) -> None:
        """Run a job in an idle worker."""
        worker = self.idle.pop()
        self.observer.started(job)
        try:
            future = worker.submit(self.run_job, job)
        except BrokenProcessPool:
            # The worker was killed while it was idle.
            worker = make_worker()
            future = worker.submit(self.run_job, job)
        self.running[future] = (job, worker)
        if self.signal is not None:
            # The signal arrived while the job was being submitted.
            signal_workers(signal.SIGTERM)

    def handle_result(self, future: Future[str]) -> None:
        """Record how a job ended and make its worker idle; replace a worker that was killed."""
        job, worker = self.running.pop(future)
        try:
            error = future.result()
        except BrokenProcessPool:
            error, worker = "its process was killed", make_worker()
            if not job.status and job.number not in self.retried and self.signal is None:
                # Without run.json the job had not started: the worker may have been killed while idle. Retry once.
                self.retried.add(job.number)
                self.running[worker.submit(self.run_job, job)] = (job, worker)
                return
        except Exception as unexpected:
            error = f"{type(unexpected).__name__}: {unexpected}"
        self.idle.append(worker)
        if error and self.signal is None:
            job.record_failure(error)
        self.observer.ended(job, error)
        if error and self.fail_fast:
            self.stop(None)

    def stop(self, number: int | None) -> None:
        """Start no more jobs and let running ones save and stop; the second time, kill them."""
        again, self.signal = self.signal is not None, number or self.signal
        self.pending = iter(())
        signal_workers(signal.SIGKILL if again else signal.SIGTERM)


def signal_workers(number: int) -> None:
    """Send a signal to all worker processes."""
    for child in active_children():
        os.kill(cast("int", child.pid), number)


class Worker(ProcessPoolExecutor):
    """A worker process in `folder` that imports no file of that folder as a module of the standard library."""

    def __init__(self, folder: str) -> None:
        with chdir_to_library():
            super().__init__(1, mp_context=get_context("spawn"), initializer=initialise_worker, initargs=(folder,))

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in the process, which the first call starts."""
        with chdir_to_library():
            return super().submit(fn, *args, **kwargs)


@contextmanager
def chdir_to_library() -> Iterator[None]:
    """Change the working folder to the standard library within the block.

    New processes start as `python -c`, which would import a multiprocessing.py from the working folder.
    """
    before = Path.cwd()
    os.chdir(PYTHON_LIBRARY)
    try:
        yield
    finally:
        os.chdir(before)


def make_worker() -> Worker:
    """Return a worker whose process has not started yet and will inherit only the environment.

    Raises ConfigError if the system has no shared memory for its locks.
    """
    try:
        return Worker(str(Path.cwd()))
    except OSError as error:
        raise ConfigError(
            f"a sweep needs shared memory for its processes: {error.strerror or error}"
            "\n  make /dev/shm writable and larger, as docker run --shm-size=64m does"
        ) from error


def initialise_worker(folder: str) -> None:
    """Set up a worker process: change to `folder`, ignore the terminal's Ctrl-C, stop when the parent dies."""
    os.chdir(folder)
    if hasattr(os, "setsid"):
        os.setsid()
    parent = cast("BaseProcess", parent_process())

    def stop_with_parent() -> None:
        parent.join()
        # A training run saves and stops at the first signal; the code that runs after it ends at the next one.
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=stop_with_parent, daemon=True).start()


@contextmanager
def handle_stop_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """Call `stop` with the signal number on Ctrl-C and SIGTERM; only the main thread can do so."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
