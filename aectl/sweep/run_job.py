"""One job of a sweep, in a process of its own: the same as if its command had been typed."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from aectl.config.literal import quote_override
from aectl.config.overrides import may_change_on_resume, override_key
from aectl.runs.run import COMMAND, Run, is_alive
from aectl.sweep.plan import Planned

PATIENCE_SECONDS = 60.0
"""How long a process that was told to stop may take to save its run."""

STOPPED = (130, 138, 143)
"""Exit codes of a run that a signal stopped at a step."""


class RunCommand(Protocol):
    """What runs a command as if it had been typed; the command line hands it in."""

    def __call__(
        self, command: str, arguments: Sequence[str], *, is_job: bool = False, imports_here: bool = True
    ) -> None: ...


def carry_out_job(
    job: Planned,
    run_command: RunCommand,
    flags: Sequence[str] = (),
    extra: Sequence[str] = (),
    imports_here: bool = True,
) -> str:
    """Train a job's run, or go on with it from its checkpoint; returns the last line of its error, or nothing.

    `flags` are Hydra's, `extra` overrides that are no part of what tells the job from others. Whatever happens leaves a
    record in the job's folder.
    """
    if (pid := wait_for(job)) is not None:
        return f"process {pid} still trains it"
    words = command(job, extra)
    COMMAND.set(())
    said, code = io.StringIO(), 0
    try:
        with silence(said):
            run_command("train", [*flags, *words], is_job=True, imports_here=imports_here)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    # A run that was interrupted before is still so if it is refused now.
    if job.status == "done" or (job.status == "interrupted" and code in (0, *STOPPED)):
        return ""
    error = message(said.getvalue())
    end_as_failed(job, error, extra)
    return error


def end_as_failed(job: Planned, error: str, extra: Sequence[str]) -> None:
    """Record why a job failed."""
    job.folder.mkdir(parents=True, exist_ok=True)
    overrides = [*job.overrides, *(word for word in extra if override_key(word) != "trust")]
    Run(job.folder).record_end("failed", error=error, overrides=overrides)


@contextlib.contextmanager
def silence(said: TextIO) -> Iterator[None]:
    """Let nothing through to the terminal, where other jobs speak; what goes to stderr is kept in `said`."""
    with (
        Path(os.devnull).open("w", encoding="utf-8", errors="replace") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(said),
    ):
        yield


def command(job: Planned, extra: Sequence[str]) -> list[str]:
    """Return the words that train a job, in a folder that holds nothing else, or that go on with it."""
    where = quote_override(str(job.folder))
    if job.can_go_on:
        # The run has its threads already: with others its sums would differ.
        kept = [word for word in extra if may_change_on_resume(word) and not word.startswith("device.threads=")]
        return [f"resume={where}", *kept]
    # What has no checkpoint has nothing to lose: it was cut short in its first epoch, or never began.
    shutil.rmtree(job.folder, ignore_errors=True)
    # Where the sweep's jobs run is decided already, and a run by itself takes no sweep=.
    own = [word for word in job.overrides if override_key(word) != "sweep"]
    # What a run is started with is trusted, and trust= is for stored ones.
    own += [word for word in extra if override_key(word) != "trust"]
    return [*own, f"hydra.run.dir={where}"]


def wait_for(job: Planned) -> int | None:
    """Wait for a process that still saves this run, as after a sweep was killed; returns it if it goes on for long."""
    end = time.monotonic() + PATIENCE_SECONDS
    while job.status == "running":
        record = Run(job.folder).record
        if not is_alive(record.get("pid"), record.get("host")):
            return None
        if time.monotonic() > end:
            return record["pid"]
        time.sleep(0.1)
    return None


def message(said: str) -> str:
    """Return the error in what was said on stderr, in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "AECTL_DEBUG" not in line]
    return " ".join(lines[-2:]).removeprefix("aectl: ") or "it ended without a word"
