"""Runs the jobs of a sweep: plans them, skips those that are done, and returns their objectives to Hydra's sweeper."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import DictConfig, OmegaConf

from aectl.config import ConfigError, to_plain
from aectl.config.instantiate import find_other_modules
from aectl.config.overrides import IMPORTS_HERE, MULTIRUN, TRUST, split_flags
from aectl.config.quoting import quote_override
from aectl.config.schema import check_ranges
from aectl.config.stored_overrides import find_own_modules
from aectl.runs.run import Run
from aectl.sweep.plan import PlannedJob, plan_jobs, restore_folders, write_plan
from aectl.sweep.progress import make_progress_view, name_by_differences
from aectl.sweep.run_job import RunCommand, run_job
from aectl.sweep.table import write_results
from aectl.sweep.worker_pool import JobFunction, JobObserver, WorkerPool
from aectl.system.file_lock import FileLock, Timeout
from aectl.system.idle_cores import count_idle_cores
from aectl.system.machine import PROCESS_BYTES, count_usable_cores, has_accelerator, memory_bytes
from aectl.system.terminal import display_path, format_count, make_console


class JobRunner(Protocol):
    """Runs the jobs of a sweep: a worker pool or a cluster."""

    def run(self, jobs: Iterable[PlannedJob]) -> None:
        """Run the jobs and return when all have ended; raises KeyboardInterrupt if a signal stopped them."""


SWEEP_KEYS = ("hydra.sweep.", "hydra.launcher.", "hydra.sweeper.", "hydra/launcher", "hydra/sweeper")
"""Prefixes of the overrides that configure the sweep and are not passed on to its jobs."""


def launch_locally(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    *,
    jobs: int | None,
    fail_fast: bool,
) -> list[JobReturn]:
    """Run the jobs of a sweep that are not done yet, in parallel on this machine."""
    count = choose_worker_count(config, jobs, len(job_overrides))
    make_runner = partial(WorkerPool, count, fail_fast=fail_fast)
    return run_sweep(config, job_overrides, first, run_command, make_runner, threads_per_worker(count))


def run_sweep(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    make_runner: Callable[[JobFunction, JobObserver], JobRunner],
    threads: int | None,
) -> list[JobReturn]:
    """Run the jobs of a sweep that are not done yet and return the objectives of all.

    `first` is the number of the first job. `threads` is the number of threads of each job, None to let the job decide.
    Raises SystemExit if a signal stopped the sweep.
    """
    check_settings(config)
    folder = make_sweep_folder(config)
    with lock_sweep(folder):
        jobs = restore_folders(plan_jobs(folder, job_overrides, first), folder)
        write_plan(folder, sweep_arguments(), jobs)
        left = [job for job in jobs if job.status != "done"]
        job_function = bind_run_job(config, run_command, threads, [word for words in job_overrides for word in words])
        runner = make_runner(job_function, make_progress_view(len(left), name_by_differences(jobs)))
        done = f", {len(jobs) - len(left)} of them done already" if len(left) < len(jobs) else ""
        make_console().print(f"{format_count(len(jobs), 'job')}{done}")
        run_jobs(folder, left, runner)
    return [to_job_return(job) for job in jobs]


@contextlib.contextmanager
def lock_sweep(folder: Path) -> Iterator[None]:
    """Hold the lock of a sweep's folder within the block; raises ConfigError if another process holds it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{display_path(folder)}: {lock.describe_owner()} runs this sweep; wait for it or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def run_jobs(folder: Path, jobs: Iterable[PlannedJob], runner: JobRunner) -> None:
    """Run the jobs; if a signal stops them, print the table and how to resume, and raise SystemExit."""
    setup_globals()
    try:
        runner.run(jobs)
    except KeyboardInterrupt:
        write_results(folder)
        make_console().print(
            f"stopped; resume with\n  aectl train -m resume={shlex.quote(display_path(folder))}", soft_wrap=True
        )
        raise SystemExit(130) from None


def check_settings(config: DictConfig) -> None:
    """Raise ConfigError if a setting that all jobs share is out of range, or would differ from job to job."""
    if OmegaConf.select(config, "init_from") == "latest":
        # A typed `latest` has been replaced by the run's folder before.
        raise ConfigError(
            "init_from: latest in a config file would name another run for each job of the sweep; type it instead"
        )
    check_ranges(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def make_sweep_folder(config: DictConfig) -> Path:
    """Return the absolute path of the sweep's folder; create the folder if necessary."""
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def choose_worker_count(config: DictConfig, requested: int | None, jobs: int) -> int:
    """Return how many jobs run at a time: as many as requested, by default as many as the idle cores allow.

    Raises ConfigError if `requested` is less than 1, or if the machine has too little memory for so many processes.
    """
    if requested is not None and requested < 1:
        raise ConfigError(f"jobs must be at least 1, not {requested}")
    number = max(1, min(requested or default_worker_count(config), jobs))
    if requested and number * PROCESS_BYTES > memory_bytes():
        needed, present = (round(size / 1e9) for size in (number * PROCESS_BYTES, memory_bytes()))
        raise ConfigError(f"jobs: {number:,} processes need {needed:,} GB, this machine has {present:,} GB")
    return number


def threads_per_worker(workers: int) -> int | None:
    """Return each worker's share of the idle cores; None for a single worker, which may use all."""
    if workers == 1:
        return None
    return 1 if workers >= count_usable_cores() else max(1, count_idle_cores() // workers)


def bind_run_job(config: DictConfig, run_command: RunCommand, threads: int | None, words: Sequence[str]) -> JobFunction:
    """Return `run_job` with the flags, the Hydra overrides, the threads and the trusted modules of the sweep.

    `words` are the overrides of all jobs. The number of threads is not set if it is None or if `words` set it.
    """
    is_set = threads is None or any(word.startswith("device.threads=") for word in words)
    share = [] if is_set else [f"device.threads={threads}"]
    flags = [flag for flag in split_flags(sweep_arguments())[0] if flag not in MULTIRUN]
    modules = trusted_modules(config, words)
    trust = [f"trust=[{','.join(map(quote_override, modules))}]"] if modules else []
    extra = [*select_hydra_overrides(config), *share, *trust]
    return partial(run_job, run_command=run_command, flags=flags, extra=extra, imports_here=IMPORTS_HERE.get())


def trusted_modules(config: DictConfig, words: Iterable[str]) -> list[str]:
    """Return the modules that a job may import when it resumes: those that it used when it started.

    These are the modules of `trust=`, of classes in the overrides (typed by the user or checked before), and of classes
    in the config that all jobs share.
    """
    shared = find_other_modules(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return list(dict.fromkeys([*TRUST.get(), *find_own_modules(words), *shared]))


def sweep_arguments() -> list[str]:
    """Return the arguments of the command that started the sweep, without the folder that a resume adds."""
    return [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]


def select_hydra_overrides(config: DictConfig) -> list[str]:
    """Return the overrides of Hydra's own keys that each job needs too."""
    words: list[str] = to_plain(config.hydra.overrides.hydra)
    return [word for word in words if not word.lstrip("+~").startswith((*SWEEP_KEYS, "hydra.mode="))]


def default_worker_count(config: DictConfig) -> int:
    """Return how many jobs run at a time by default: one on a GPU, otherwise the idle cores over `device.count`."""
    uses_gpu = has_accelerator() and config.hydra.runtime.choices.get("device") != "cpu"
    return 1 if uses_gpu else max(1, count_idle_cores() // (OmegaConf.select(config, "device.count") or 1))


def to_job_return(job: PlannedJob) -> JobReturn:
    """Return a job's objective in the form that Hydra's sweepers expect, NaN if it has none."""
    value = (Run(job.folder).record.get("objective") or {}).get("value") if job.status else None
    result = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    result.return_value = math.nan if value is None else value
    return result
