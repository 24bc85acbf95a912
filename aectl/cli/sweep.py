"""From the jobs that Hydra's sweeper hands over to runs beside each other, and back to what they came to."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from omegaconf import DictConfig, OmegaConf

from aectl.cli.job import carry_out
from aectl.cli.launch import MULTIRUN, split_flags
from aectl.config import ConfigError
from aectl.machine import accelerated, usable_cores
from aectl.run import Run
from aectl.sweep.places import Places
from aectl.sweep.plan import Planned, note, plan
from aectl.sweep.table import close
from aectl.sweep.view import view
from aectl.terminal import console, shown

OWN = ("hydra.sweep.", "hydra.launcher.", "hydra.sweeper.", "hydra/launcher", "hydra/sweeper")
"""Overrides that are the sweep's, not its jobs'."""


def launch(
    config: DictConfig, job_overrides: Sequence[Sequence[str]], first: int, places: int | None, fail_fast: bool
) -> list[JobReturn]:
    """Run what is not done yet of a sweep's jobs; stopped from outside, says how to go on and leaves by SystemExit."""
    if places is not None and places < 1:
        raise ConfigError(f"jobs must be at least 1, not {places}")
    setup_globals()
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = plan(folder, job_overrides, first)
    flags, words = typed()
    note(folder, [*flags, *words], jobs)
    left = [job for job in jobs if job.status != "done"]
    number = max(1, min(places or default_places(config), len(left)))
    extra = [*hydra_words(config), *share(number, job_overrides)]
    task = partial(carry_out, flags=[flag for flag in flags if flag not in MULTIRUN], extra=extra)
    greet(len(jobs), len(left), number)
    try:
        Places(number, task, view(left), fail_fast).carry_out(left)
    except KeyboardInterrupt:
        close(folder)
        console().print(f"stopped; go on with\n  aectl train -m resume={shown(folder)}", soft_wrap=True)
        raise SystemExit(130) from None
    return [returned(job) for job in jobs]


def greet(jobs: int, left: int, places: int) -> None:
    """Say what is going to happen."""
    done = f", {jobs - left} of them done already" if left < jobs else ""
    console().print(f"{jobs} jobs{done}; {places} at a time")


def typed() -> tuple[list[str], list[str]]:
    """Return Hydra's flags and the overrides that started the sweep, without the folder that a resume adds."""
    flags, overrides = split_flags(sys.argv[1:])
    return flags, [word for word in overrides if not word.startswith("hydra.sweep.dir=")]


def hydra_words(config: DictConfig) -> list[str]:
    """Return the overrides of Hydra's own keys that each job needs too."""
    words = OmegaConf.to_container(config.hydra.overrides.hydra)
    return [word for word in words if not word.lstrip("+~").startswith((*OWN, "hydra.mode="))]


def share(places: int, job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return each job's share of the cores, unless the user has said how many threads it gets."""
    told = any(word.startswith("device.threads=") for words in job_overrides for word in words)
    return [] if told or places == 1 else [f"device.threads={max(1, usable_cores() // places)}"]


def default_places(config: DictConfig) -> int:
    """Return how many jobs run at a time: one for each core, but one alone where an accelerator does the work."""
    return usable_cores() if config.hydra.runtime.choices.get("device") == "cpu" or not accelerated() else 1


def returned(job: Planned) -> JobReturn:
    """Return for Hydra's sweepers what a job came to."""
    value = (Run(job.folder).record.get("objective") or {}).get("value") if job.status else None
    answer = JobReturn(overrides=list(job.overrides), status=JobStatus.COMPLETED)
    answer.return_value = math.nan if value is None else value
    return answer
