"""aectl train -m sweep=fused: jobs that differ in numbers alone train in one program."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from aectl.cli import job, sweep
from aectl.cli.job import silence
from aectl.config import ConfigError
from aectl.run import COMMAND, Run
from aectl.sweep.bundles import Bundle, Bundles
from aectl.sweep.places import Task, Watcher
from aectl.sweep.plan import Planned, read
from aectl.terminal import console, counted, fill

if TYPE_CHECKING:
    from aectl.commands.fuse import Fleet


def launch(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    jobs: int | None,
    fail_fast: bool,
    together: int,
) -> list[JobReturn]:
    """Run what is not done yet of a sweep's jobs in `jobs` processes, in each up to `together` of them at a time."""
    if together < 1:
        raise ConfigError(f"together must be at least 1, not {together}")
    number = sweep.places_for(config, jobs, len(job_overrides))

    def where(task: Task, watcher: Watcher[Planned]) -> Bundles:
        return Bundles(
            number,
            together,
            partial(carry_out, **cast("partial[str]", task).keywords, fail_fast=fail_fast),
            watcher,
            fail_fast,
        )

    known = {one.number for one in read(sweep.folder_of(config)) if one.status == "done"}
    results = sweep.run(config, job_overrides, first, where, sweep.threads_for(number))
    tell([one for one in read(sweep.folder_of(config)) if one.number not in known])
    return results


def carry_out(bundle: Bundle, flags: Sequence[str], extra: Sequence[str], fail_fast: bool) -> str:
    """Train the runs of some jobs, or go on with them from their checkpoints; returns errors of some, or nothing.

    A job by itself is trained as in any other sweep.
    """
    if len(bundle.jobs) == 1:
        return carry_out_one(bundle.jobs[0], flags, extra)
    from aectl.commands.fuse import Fleet

    fleet, errors = Fleet(), []
    for one in bundle.jobs:
        if error := begin(one, fleet, flags, extra):
            errors.append(f"job {one.number}: {error}")
        if error and fail_fast:
            fleet.give_up()
            return error
    with silence(io.StringIO()):
        fleet.train(fail_fast)
    failed = [f"job {one.number} failed" for one in bundle.jobs if one.status == "failed"]
    return "; ".join([*errors, *failed])


def carry_out_one(one: Planned, flags: Sequence[str], extra: Sequence[str]) -> str:
    """Train a job's run as in any other sweep, and note that it had a process to itself."""
    error = job.carry_out(one, flags, extra)
    if one.status:
        Run(one.folder).update(fused={"runs": 1, "why": "a process to itself; fewer jobs= would put several together"})
    return error


def begin(one: Planned, fleet: Fleet, flags: Sequence[str], extra: Sequence[str]) -> str:
    """Make a job's run ready; returns why it cannot begin, which its record says then, or nothing."""
    from aectl.cli import run_command

    if (pid := job.wait_for(one)) is not None:
        return f"process {pid} still trains it"
    COMMAND.set(())
    words, said, known = job.command(one, extra), io.StringIO(), len(fleet.begun)
    with contextlib.suppress(SystemExit), silence(said):
        run_command("train", [*flags, *words], fleet.take, is_job=True)
    if len(fleet.begun) > known:
        return ""
    error = job.message(said.getvalue())
    job.end_as_failed(one, error, extra)
    return error


def tell(jobs: Sequence[Planned]) -> None:
    """Say how many of the runs shared a program, and why others did not."""
    out = console()
    records = [Run(one.folder).record.get("fused") for one in jobs if one.status]
    known = [record for record in records if record]
    for runs, number in sorted(Counter(record["runs"] for record in known if record["runs"] > 1).items()):
        out.print(f"fused: {number} runs, {runs} in one program", soft_wrap=True)
    for what in (False, True):
        told = Counter(record["why"] for record in known if record["why"] and (record["runs"] > 1) == what)
        for why, number in sorted(told.items()):
            text = f"not {'always ' * what}fused: {counted(number, 'run')}, {why}"
            out.print(fill(out, text), soft_wrap=True)
