"""Runs one job of a sweep in its own process, as if its command had been typed."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from aectl.config.overrides import may_change_on_resume, override_key
from aectl.config.quoting import quote_override
from aectl.runs.run import COMMAND, Run, is_alive
from aectl.sweep.plan import PlannedJob

SAVE_TIMEOUT_SECONDS = 60.0
"""How long to wait for a stopped process that still saves the job's run."""

STOP_EXIT_CODES = (130, 138, 143)
"""Exit codes of a run that a signal stopped between two steps."""


class RunCommand(Protocol):
    """Runs an aectl command as if it had been typed. The command line passes it in: sweep/ does not import cli/."""

    def __call__(
        self, command: str, arguments: Sequence[str], *, is_job: bool = False, imports_here: bool = True
    ) -> None: ...


def run_job(
    job: PlannedJob,
    run_command: RunCommand,
    flags: Sequence[str] = (),
    extra: Sequence[str] = (),
    imports_here: bool = True,
) -> str:
    """Train a job's run, or resume it from its checkpoint; return the last line of its error, or the empty text.

    `flags` are Hydra's. `extra` are overrides that apply to every job of the sweep. The job's folder has a
    run.json afterwards, however the job ended.
    """
    if (pid := wait_for_process(job)) is not None:
        return f"process {pid} still trains it"
    words = build_command(job, extra)
    COMMAND.set(())
    stderr, code = io.StringIO(), 0
    try:
        with redirect_output(stderr):
            run_command("train", [*flags, *words], is_job=True, imports_here=imports_here)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    # The status alone does not suffice: a run that was interrupted before stays so if resuming it is refused.
    if job.status == "done" or (job.status == "interrupted" and code in (0, *STOP_EXIT_CODES)):
        return ""
    error = format_error(stderr.getvalue())
    record_failure(job, error, extra)
    return error


def record_failure(job: PlannedJob, error: str, extra: Sequence[str]) -> None:
    """Write into the job's run.json that it failed, and why."""
    job.folder.mkdir(parents=True, exist_ok=True)
    overrides = [*job.overrides, *(word for word in extra if override_key(word) != "trust")]
    Run(job.folder).record_end("failed", error=error, overrides=overrides)


@contextlib.contextmanager
def redirect_output(stderr: TextIO) -> Iterator[None]:
    """Discard stdout and write stderr to `stderr` within the block: the terminal shows the progress of all jobs."""
    with (
        Path(os.devnull).open("w", encoding="utf-8", errors="replace") as devnull,
        contextlib.redirect_stdout(devnull),
        contextlib.redirect_stderr(stderr),
    ):
        yield


def build_command(job: PlannedJob, extra: Sequence[str]) -> list[str]:
    """Return the arguments of `aectl train` that start a job in an empty folder, or resume it from its checkpoint.

    Deletes the folder of a job that has no checkpoint.
    """
    folder = quote_override(str(job.folder))
    if job.can_resume:
        # The run keeps its number of threads: another number would change its sums.
        kept = [word for word in extra if may_change_on_resume(word) and not word.startswith("device.threads=")]
        return [f"resume={folder}", *kept]
    # Without a checkpoint there is nothing to lose: the job stopped in its first epoch, or never started.
    shutil.rmtree(job.folder, ignore_errors=True)
    # A single run takes no sweep=.
    own = [word for word in job.overrides if override_key(word) != "sweep"]
    # A new run trusts what its overrides name; trust= is for stored ones.
    own += [word for word in extra if override_key(word) != "trust"]
    return [*own, f"hydra.run.dir={folder}"]


def wait_for_process(job: PlannedJob) -> int | None:
    """Wait for a process of a killed sweep that still saves the job's run; return its pid if that takes too long."""
    end = time.monotonic() + SAVE_TIMEOUT_SECONDS
    while job.status == "running":
        record = Run(job.folder).record
        if not is_alive(record.get("pid"), record.get("host")):
            return None
        if time.monotonic() > end:
            return record["pid"]
        time.sleep(0.1)
    return None


def format_error(stderr: str) -> str:
    """Return the error that a command printed on stderr as one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and "AECTL_DEBUG" not in line]
    return " ".join(lines[-2:]).removeprefix("aectl: ") or "it ended without an error message"
