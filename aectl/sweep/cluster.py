"""Runs the jobs of a sweep on other machines, through SLURM or Ray.

All machines must see the sweep's folder under the same path.
"""

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
from aectl.sweep.launch import make_sweep_folder, run_sweep
from aectl.sweep.plan import PlannedJob
from aectl.sweep.run_job import RunCommand
from aectl.sweep.worker_pool import JobFunction, JobObserver, handle_stop_signals

TICK_SECONDS = 0.5
RETRIES = 5
"""How often Ray restarts a job whose process or machine was lost."""


class Handle(Protocol):
    """A submitted job; submitit's `Job` is one."""

    def done(self) -> bool:
        """Return whether the job has ended."""

    def result(self) -> str:
        """Return the job's error, empty if it succeeded; raises what its process raised."""

    def cancel(self) -> None:
        """Remove the job from the queue, or stop it if it runs."""


class Queue(Protocol):
    """A queue to which jobs are submitted."""

    def submit(self, run_job: JobFunction, jobs: list[PlannedJob]) -> list[Handle]:
        """Submit the jobs and return a handle for each."""


class Cluster:
    """Submits all jobs to a queue at once and waits for them; Ctrl-C and SIGTERM cancel them."""

    def __init__(self, queue: Queue, run_job: JobFunction, observer: JobObserver, fail_fast: bool = False) -> None:
        self.queue, self.run_job, self.observer, self.fail_fast = queue, run_job, observer, fail_fast
        self.handles: dict[int, tuple[PlannedJob, Handle]] = {}
        self.started: set[int] = set()
        self.stopped = False

    def run(self, jobs: Iterable[PlannedJob]) -> None:
        """Run the jobs and return when all have ended; raises KeyboardInterrupt if a signal stopped them."""
        jobs = list(jobs)
        handles = self.queue.submit(RunInFolder(self.run_job, str(Path.cwd())), jobs)
        self.handles = {job.number: (job, handle) for job, handle in zip(jobs, handles, strict=True)}
        with handle_stop_signals(self.stop):
            while self.handles:
                for job, handle in list(self.handles.values()):
                    self.update_job(job, handle)
                self.observer.tick()
                time.sleep(TICK_SECONDS)
        if self.stopped:
            raise KeyboardInterrupt

    def update_job(self, job: PlannedJob, handle: Handle) -> None:
        """Call the observer if a job has started or ended since the last call."""
        has_ended = handle.done()
        if job.number not in self.started and (has_ended or job.status):
            self.started.add(job.number)
            self.observer.started(job)
        if not has_ended:
            return
        del self.handles[job.number]
        error = get_error(handle)
        if error and not self.stopped:
            job.record_failure(error)
        self.observer.ended(job, error)
        if error and self.fail_fast:
            self.cancel_all()

    def stop(self, number: int) -> None:
        """Cancel all jobs after a signal."""
        self.stopped = True
        self.cancel_all()

    def cancel_all(self) -> None:
        """Cancel the jobs that have not ended."""
        for _, handle in self.handles.values():
            handle.cancel()


def get_error(handle: Handle) -> str:
    """Return the error of a job that has ended in one line, empty if it succeeded."""
    try:
        return handle.result()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


@dataclass(frozen=True)
class RunInFolder:
    """Runs a job in the working folder of the sweep; a job that is submitted again resumes from its checkpoint."""

    run_job: JobFunction
    folder: str

    def __call__(self, job: PlannedJob) -> str:
        os.chdir(self.folder)
        return self.run_job(job)

    def checkpoint(self, job: PlannedJob) -> Any:
        """Return what submitit submits again when a job is preempted or reaches its time limit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class SlurmQueue:
    """Submits the jobs as one SLURM array; `settings` are submitit's, such as `slurm_partition` and `timeout_min`.

    `cluster` null is `slurm`; `local` simulates it with processes of this machine. Raises ConfigError if submitit or
    SLURM is missing.
    """

    def __init__(self, folder: Path, cluster: str | None, settings: Mapping[str, Any]) -> None:
        try:
            from submitit import AutoExecutor
        except ImportError:
            raise ConfigError("sweep=slurm needs submitit: pip install 'aectl[slurm]'") from None
        try:
            # submitit unpickles a job's result from here by the job's number; a file that lies here before the job
            # runs may come from someone else.
            for old in (folder / ".submitit").glob("**/*_result.pkl"):
                old.unlink()
            self.executor = AutoExecutor(folder / ".submitit", cluster=cluster or "slurm")
            self.executor.update_parameters(**settings)
        except (RuntimeError, NameError) as error:
            raise ConfigError(f"slurm: {str(error).splitlines()[0]}") from error

    def submit(self, run_job: JobFunction, jobs: list[PlannedJob]) -> list[Handle]:
        return list(self.executor.map_array(run_job, jobs))


class RayQueue:
    """Submits the jobs to a Ray cluster; those of a lost machine resume on another one from their checkpoints.

    `address` null starts a cluster on this machine, `auto` finds the one that this machine belongs to. Raises
    ConfigError if Ray is missing or no cluster is found.
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

    def submit(self, run_job: JobFunction, jobs: list[PlannedJob]) -> list[Handle]:
        remote: Any = self.ray.remote(lambda job: run_job(job)).options(max_retries=RETRIES, **self.resources)
        return [RayHandle(self.ray, remote.remote(job)) for job in jobs]


@dataclass(frozen=True)
class RayHandle:
    """A job submitted to a Ray cluster; `reference` is Ray's reference to its result."""

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
    """Run the jobs of a sweep as a SLURM array, at most `jobs` at a time."""
    limits = {"slurm_partition": partition, "slurm_array_parallelism": jobs}
    parameters = {
        "name": "aectl",
        "timeout_min": minutes,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus,
        "mem_gb": memory_gb,
        **{key: value for key, value in limits.items() if value is not None},
        **settings,
    }
    return launch_in_queue(
        config,
        job_overrides,
        first,
        run_command,
        lambda folder: SlurmQueue(folder, cluster, parameters),
        cpus,
        fail_fast,
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
    """Run the jobs of a sweep on a Ray cluster, as many at a time as its CPUs and GPUs allow.

    Raises ConfigError if `jobs` is set.
    """
    if jobs is not None:
        raise ConfigError(
            f"jobs={jobs}: Ray runs as many jobs at a time as fit; set what a job takes, hydra.launcher.cpus and .gpus"
        )
    resources = {"num_cpus": cpus, "num_gpus": gpus}
    return launch_in_queue(
        config, job_overrides, first, run_command, lambda folder: RayQueue(address, resources), cpus, fail_fast
    )


def launch_in_queue(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    make_queue: Callable[[Path], Queue],
    threads: int,
    fail_fast: bool,
) -> list[JobReturn]:
    """Run the jobs of a sweep in a queue, each with `threads` threads."""
    make_runner = partial(Cluster, make_queue(make_sweep_folder(config)), fail_fast=fail_fast)
    return run_sweep(config, job_overrides, first, run_command, make_runner, threads)
