"""What one sees of a sweep while it runs: a table that moves on a terminal, elsewhere a line for each event."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aectl.runs.run import Run
from aectl.sweep.plan import Planned
from aectl.sweep.results import read_epochs
from aectl.sweep.worker_pool import Watcher
from aectl.system.terminal import format_duration, format_significant, make_console

if TYPE_CHECKING:
    from rich.live import Live as RichLive
    from rich.table import Table

STATUS = len("interrupted")
"""Width of the column of statuses."""


def view(total: int, name: Callable[[Planned], str]) -> Watcher:
    """Return what shows here how `total` jobs fare, each by its name."""
    return Live(total, name) if make_console().is_terminal else Lines(total, name)


class Lines(Watcher):
    """A line when a job begins and one when it ends, with what tells it from the others."""

    def __init__(self, total: int, name: Callable[[Planned], str]) -> None:
        self.total, self.name = total, name
        self.began: dict[int, float] = {}
        self.count = 0
        self.out = make_console()

    def started(self, job: Planned) -> None:
        self.began[job.number] = time.monotonic()
        self.say(f"{'resumes' if job.can_go_on else 'begins':{STATUS}}  {self.title(job)}")

    def ended(self, job: Planned, error: str) -> None:
        self.count += 1
        seconds = time.monotonic() - self.began[job.number]
        status, result = ("failed", error) if error else (job.status, reached(job))
        said = f"{status:{STATUS}}  {self.title(job)}  {result}"
        self.say(f"{said}  {seconds:.1f} s  [{self.count}/{self.total}]")

    def title(self, job: Planned) -> str:
        """Return a job's number and its settings."""
        return f"{job.number}  {self.name(job)}".rstrip()

    def say(self, text: str) -> None:
        """Print a line, whole however long it is."""
        self.out.print(text, soft_wrap=True)


class Live(Lines):
    """The jobs that run, in place: epoch, objective, time left; above them a line for each that has ended."""

    def __init__(self, total: int, name: Callable[[Planned], str]) -> None:
        super().__init__(total, name)
        self.running: dict[int, Planned] = {}
        self.moving: RichLive | None = None

    def started(self, job: Planned) -> None:
        from rich.live import Live as RichLive

        self.began[job.number] = time.monotonic()
        self.running[job.number] = job
        if self.moving is None:
            # A stopped display keeps its height and, started again, clears that many lines of earlier output.
            self.moving = RichLive(console=self.out, transient=True, auto_refresh=False)
            self.moving.start()

    def ended(self, job: Planned, error: str) -> None:
        del self.running[job.number]
        super().ended(job, error)
        if not self.running and self.moving is not None:
            self.moving.stop()
            self.moving = None

    def tick(self) -> None:
        if self.moving is not None:
            self.moving.update(self.table(), refresh=True)

    def table(self) -> Table:
        """Return the jobs that run now, and how many are to come."""
        from rich.table import Table

        table = Table("job", box=None, pad_edge=False)
        table.add_column("", overflow="fold")
        for heading in ("epoch", "objective", "left"):
            table.add_column(heading, no_wrap=True)
        for job in self.running.values():
            table.add_row(str(job.number), self.name(job), *progress(job))
        table.caption = f"{self.count} of {self.total} ended"
        return table


def what_differs(jobs: Sequence[Planned]) -> Callable[[Planned], str]:
    """Return what names a job by the overrides in which it differs from others; by all of them if it is alone."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return lambda job: " ".join(word for word in job.overrides if word not in common)


def reached(job: Planned) -> str:
    """Return the objective that a job has come to, and in which epoch."""
    objective = Run(job.folder).record.get("objective") or {}
    if objective.get("value") is None:
        return ""
    return f"{objective['name']} {format_significant(objective['value'])} (epoch {objective['epoch']})"


def progress(job: Planned) -> tuple[str, str, str]:
    """Return epochs, objective and time left of a job that runs, as far as it has written them."""
    goal, rows = goal_of(job), read_epochs(job.folder)
    if not goal or not rows:
        return ("–", "", "")
    done, total = int(rows[-1]["epoch"]), int(goal["epochs"])
    value = rows[-1].get(goal["objective"]) or ""
    seconds = sum(float(row["seconds"]) for row in rows) / len(rows) * (total - done)
    return (
        f"{done}/{total}",
        f"{goal['objective']} {format_significant(float(value))}" if value else "",
        format_duration(seconds),
    )


def goal_of(job: Planned) -> Mapping[str, Any]:
    """Return the epochs that a job is to train and the metric that it follows; nothing before it has begun."""
    return Run(job.folder).record.get("goal") or {} if job.status else {}
