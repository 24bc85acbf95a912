"""Jobs on other machines, SLURM's or a Ray cluster's: all must see the sweep's folder under the same path."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from aectl.config import ConfigError
from aectl.sweep.launch import folder_of, run_sweep
from aectl.sweep.plan import Planned
from aectl.sweep.run_job import RunCommand
from aectl.sweep.worker_pool import Task, Watcher, told_to_stop

TICK_SECONDS = 0.5
RETRIES = 5
"""Times that a Ray job begins again after its process, or its machine, was lost."""


class Handle(Protocol):
    """A job that was handed in."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> str:
        """Return its error, or nothing; raises what befell it."""

    def cancel(self) -> None:
        """Take it back, or stop it."""


class Queue(Protocol):
    """Where jobs are handed in."""

    def hand_in(self, task: Task, jobs: list[Planned]) -> list[Handle]:
        """Return a handle for each job."""


class Cluster:
    """Hands in all jobs at once and waits for them; Ctrl-C and SIGTERM take them back."""

    def __init__(self, queue: Queue, task: Task, watcher: Watcher, fail_fast: bool = False) -> None:
        self.queue, self.task, self.watcher, self.fail_fast = queue, task, watcher, fail_fast
        self.handles: dict[int, tuple[Planned, Handle]] = {}
        self.begun: set[int] = set()
        self.stopped = False

    def carry_out(self, jobs: Iterable[Planned]) -> None:
        """Run the jobs; returns when all have ended, and raises KeyboardInterrupt if told to stop."""
        jobs = list(jobs)
        handles = self.queue.hand_in(Elsewhere(self.task, str(Path.cwd())), jobs)
        self.handles = {job.number: (job, handle) for job, handle in zip(jobs, handles, strict=True)}
        with told_to_stop(self.stop):
            while self.handles:
                for job, handle in list(self.handles.values()):
                    self.look_after(job, handle)
                self.watcher.tick()
                time.sleep(TICK_SECONDS)
        if self.stopped:
            raise KeyboardInterrupt

    def look_after(self, job: Planned, handle: Handle) -> None:
        """Tell the watcher what has happened to a job since."""
        has_ended = handle.done()
        if job.number not in self.begun and (has_ended or job.status):
            self.begun.add(job.number)
            self.watcher.started(job)
        if not has_ended:
            return
        del self.handles[job.number]
        error = outcome(handle)
        if error and not self.stopped:
            job.fail(error)
        self.watcher.ended(job, error)
        if error and self.fail_fast:
            self.take_back()

    def stop(self, number: int) -> None:
        """Take back all jobs, since the user says so."""
        self.stopped = True
        self.take_back()

    def take_back(self) -> None:
        """Take back what has not ended."""
        for _, handle in self.handles.values():
            handle.cancel()


def outcome(handle: Handle) -> str:
    """Return what went wrong with a job that has ended, or nothing."""
    try:
        return handle.result()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


@dataclass(frozen=True)
class Elsewhere:
    """A task that begins in the working folder of the sweep; handed in again, it goes on from its checkpoint."""

    task: Task
    folder: str

    def __call__(self, job: Planned) -> str:
        os.chdir(self.folder)
        return self.task(job)

    def checkpoint(self, job: Planned) -> Any:
        """Return what submitit hands in when a job is preempted or its time is up."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class Slurm:
    """SLURM's queue as one array; `settings` are submitit's, such as `slurm_partition` and `timeout_min`.

    `cluster` null is the one that submitit finds; `local` stands in for it on this machine. Raises ConfigError without
    submitit or without SLURM.
    """

    def __init__(self, folder: Path, cluster: str | None, settings: Mapping[str, Any]) -> None:
        try:
            from submitit import AutoExecutor
        except ImportError:
            raise ConfigError("sweep=slurm needs submitit: pip install 'aectl[slurm]'") from None
        try:
            # What is handed back lies there as pickles, by the job's number: none may be there before the job.
            for old in (folder / ".submitit").glob("**/*_result.pkl"):
                old.unlink()
            self.executor = AutoExecutor(folder / ".submitit", cluster=cluster or "slurm")
            self.executor.update_parameters(**settings)
        except (RuntimeError, NameError) as error:
            raise ConfigError(f"slurm: {str(error).splitlines()[0]}") from error

    def hand_in(self, task: Task, jobs: list[Planned]) -> list[Handle]:
        return list(self.executor.map_array(task, jobs))


class Ray:
    """A Ray cluster; jobs of a machine that is lost run again elsewhere, from their checkpoints.

    `address` null starts one on this machine, `auto` finds the one that it belongs to. Raises ConfigError without Ray,
    or if there is none at the address.
    """

    def __init__(self, address: str | None, resources: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError("sweep=ray needs Ray: pip install 'aectl[ray]'") from None
        self.ray, self.resources = ray, resources
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except Exception as error:
            raise ConfigError(f"ray: {str(error).splitlines()[0]}") from error

    def hand_in(self, task: Task, jobs: list[Planned]) -> list[Handle]:
        remote: Any = self.ray.remote(lambda job: task(job)).options(max_retries=RETRIES, **self.resources)
        return [Reference(self.ray, remote.remote(job)) for job in jobs]


@dataclass(frozen=True)
class Reference:
    """A job that runs somewhere in a Ray cluster."""

    ray: Any
    reference: Any

    def done(self) -> bool:
        return bool(self.ray.wait([self.reference], timeout=0)[0])

    def result(self) -> str:
        return self.ray.get(self.reference)

    def cancel(self) -> None:
        self.ray.cancel(self.reference)


def launch_on_slurm(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    *,
    jobs: int | None,
    fail_fast: bool,
    cluster: str | None,
    minutes: int,
    partition: str | None,
    cpus: int,
    gpus: int,
    memory_gb: int,
    settings: Mapping[str, Any],
) -> list[JobReturn]:
    """Run a sweep's jobs as an array of SLURM's."""
    limits = {"slurm_partition": partition, "slurm_array_parallelism": jobs}
    wanted = {
        "name": "aectl",
        "timeout_min": minutes,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus,
        "mem_gb": memory_gb,
        **{key: value for key, value in limits.items() if value is not None},
        **settings,
    }
    return launch_in_queue(
        config, job_overrides, first, run_command, lambda folder: Slurm(folder, cluster, wanted), cpus, fail_fast
    )


def launch_on_ray(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    *,
    jobs: int | None,
    fail_fast: bool,
    address: str | None,
    cpus: int,
    gpus: float,
) -> list[JobReturn]:
    """Run a sweep's jobs on a Ray cluster, as many at a time as it has room for."""
    resources = {"num_cpus": cpus, "num_gpus": gpus}
    return launch_in_queue(
        config, job_overrides, first, run_command, lambda folder: Ray(address, resources), cpus, fail_fast
    )


def launch_in_queue(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    queue: Callable[[Path], Queue],
    threads: int,
    fail_fast: bool,
) -> list[JobReturn]:
    """Run a sweep's jobs in a queue, each with so many threads."""
    where = partial(Cluster, queue(folder_of(config)), fail_fast=fail_fast)
    return run_sweep(config, job_overrides, first, run_command, where, threads)
