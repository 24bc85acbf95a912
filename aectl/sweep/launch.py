"""From the jobs that Hydra's sweeper hands over to runs beside each other, and back to what they came to."""

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
from aectl.config.literal import quote_override
from aectl.config.overrides import IMPORTS_HERE, MULTIRUN, TRUST, split_flags
from aectl.config.schema import check_ranges
from aectl.config.stored_overrides import find_own_modules
from aectl.runs.run import Run
from aectl.sweep.plan import Planned, keep_folders, note, plan
from aectl.sweep.progress import view, what_differs
from aectl.sweep.run_job import RunCommand, carry_out_job
from aectl.sweep.table import close
from aectl.sweep.worker_pool import Places, Task, Watcher
from aectl.system.file_lock import FileLock, Timeout
from aectl.system.idle_cores import count_idle_cores
from aectl.system.machine import PROCESS_BYTES, count_usable_cores, has_accelerator, memory_bytes
from aectl.system.terminal import display_path, format_count, make_console


class Where(Protocol):
    """Something that runs jobs."""

    def carry_out(self, jobs: Iterable[Planned]) -> None:
        """Run them; raises KeyboardInterrupt if told to stop."""


OWN = ("hydra.sweep.", "hydra.launcher.", "hydra.sweeper.", "hydra/launcher", "hydra/sweeper")
"""Overrides that are the sweep's, not its jobs'."""


def launch_locally(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    *,
    jobs: int | None,
    fail_fast: bool,
) -> list[JobReturn]:
    """Run what is not done yet of a sweep's jobs, beside each other on this machine."""
    number = places_for(config, jobs, len(job_overrides))
    where = partial(Places, number, fail_fast=fail_fast)
    return run_sweep(config, job_overrides, first, run_command, where, threads_for(number))


def run_sweep(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    run_command: RunCommand,
    where: Callable[[Task, Watcher], Where],
    threads: int | None,
) -> list[JobReturn]:
    """Run what is not done yet of a sweep's jobs, where it is said; see `carry_out` for what stops it."""
    check_settings(config)
    folder = folder_of(config)
    with alone(folder):
        jobs = keep_folders(plan(folder, job_overrides, first), folder)
        note(folder, typed(), jobs)
        left = [job for job in jobs if job.status != "done"]
        task = task_of(config, run_command, threads, [word for words in job_overrides for word in words])
        carrier = where(task, view(len(left), what_differs(jobs)))
        done = f", {len(jobs) - len(left)} of them done already" if len(left) < len(jobs) else ""
        make_console().print(f"{format_count(len(jobs), 'job')}{done}")
        carry_out(folder, left, carrier)
    return [returned(job) for job in jobs]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others off the sweep within; raises ConfigError if another process is at it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{lock.owner()} is at work on the sweep {display_path(folder)}") from None
    try:
        yield
    finally:
        lock.release()


def carry_out(folder: Path, jobs: Iterable[Planned], where: Where) -> None:
    """Run the jobs; told to stop from outside, say how to go on and leave by SystemExit."""
    setup_globals()
    try:
        where.carry_out(jobs)
    except KeyboardInterrupt:
        close(folder)
        make_console().print(
            f"stopped; resume with\n  aectl train -m resume={shlex.quote(display_path(folder))}", soft_wrap=True
        )
        raise SystemExit(130) from None


def check_settings(config: DictConfig) -> None:
    """Raise ConfigError if a setting that all jobs share is out of its range, or means another run for each job."""
    if OmegaConf.select(config, "init_from") == "latest":
        # Typed, it has been replaced by the run that it was.
        raise ConfigError("init_from: latest in a config file is another run for each job of a sweep; type it instead")
    check_ranges(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def folder_of(config: DictConfig) -> Path:
    """Return the sweep's folder, which is made if there is none."""
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def places_for(config: DictConfig, places: int | None, jobs: int) -> int:
    """Return how many of the jobs run at a time: as many as the user says, or as there are idle cores for."""
    if places is not None and places < 1:
        raise ConfigError(f"jobs must be at least 1, not {places}")
    number = max(1, min(places or default_places(config), jobs))
    if places and number * PROCESS_BYTES > memory_bytes():
        needed, present = (round(size / 1e9) for size in (number * PROCESS_BYTES, memory_bytes()))
        raise ConfigError(f"jobs: {number:,} processes need {needed:,} GB, this machine has {present:,} GB")
    return number


def threads_for(places: int) -> int | None:
    """Return each place's share of the idle cores; None where one has them all."""
    if places == 1:
        return None
    return 1 if places >= count_usable_cores() else max(1, count_idle_cores() // places)


def task_of(config: DictConfig, run_command: RunCommand, threads: int | None, words: Sequence[str]) -> Task:
    """Return what runs a job, with the flags and the settings of Hydra that were typed, on so many threads.

    None leaves it to the job, and so do `words` among which the user has said it.
    """
    told = threads is None or any(word.startswith("device.threads=") for word in words)
    share = [] if told else [f"device.threads={threads}"]
    flags = [flag for flag in split_flags(typed())[0] if flag not in MULTIRUN]
    modules = trusted(config, words)
    trust = [f"trust=[{','.join(map(quote_override, modules))}]"] if modules else []
    extra = [*hydra_words(config), *share, *trust]
    return partial(carry_out_job, run_command=run_command, flags=flags, extra=extra, imports_here=IMPORTS_HERE.get())


def trusted(config: DictConfig, words: Iterable[str]) -> list[str]:
    """Return what a job of the sweep may name when it is resumed: the modules that its first start is to use.

    These are the ones of the classes in the words, which were typed or checked, and in the config that all jobs share.
    """
    shared = find_other_modules(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    return list(dict.fromkeys([*TRUST.get(), *find_own_modules(words), *shared]))


def typed() -> list[str]:
    """Return the words that started the sweep, without the folder that a resume adds."""
    return [word for word in sys.argv[1:] if not word.startswith("hydra.sweep.dir=")]


def hydra_words(config: DictConfig) -> list[str]:
    """Return the overrides of Hydra's own keys that each job needs too."""
    words: list[str] = to_plain(config.hydra.overrides.hydra)
    return [word for word in words if not word.lstrip("+~").startswith((*OWN, "hydra.mode="))]


def default_places(config: DictConfig) -> int:
    """Return how many jobs run at a time: one for each idle core, or for as many as it has processes; one on a GPU."""
    alone = has_accelerator() and config.hydra.runtime.choices.get("device") != "cpu"
    return 1 if alone else max(1, count_idle_cores() // (OmegaConf.select(config, "device.count") or 1))


def returned(done: Planned) -> JobReturn:
    """Return for Hydra's sweepers what a job came to."""
    value = (Run(done.folder).record.get("objective") or {}).get("value") if done.status else None
    answer = JobReturn(overrides=list(done.overrides), status=JobStatus.COMPLETED)
    answer.return_value = math.nan if value is None else value
    return answer
