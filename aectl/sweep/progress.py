"""Shows the progress of a sweep: a live table on a terminal, otherwise a line when a job starts or ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aectl.runs.run import Run
from aectl.sweep.plan import PlannedJob
from aectl.sweep.results import read_epochs
from aectl.sweep.worker_pool import JobObserver
from aectl.system.terminal import format_duration, format_significant, make_console

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

STATUS_WIDTH = len("interrupted")
"""Width of the status column."""


def make_progress_view(total: int, name: Callable[[PlannedJob], str]) -> JobObserver:
    """Return the observer that suits this console, for `total` jobs with the given names."""
    return ProgressTable(total, name) if make_console().is_terminal else ProgressLines(total, name)


class ProgressLines(JobObserver):
    """Prints a line when a job starts and when it ends."""

    def __init__(self, total: int, name: Callable[[PlannedJob], str]) -> None:
        self.total, self.name = total, name
        self.start_times: dict[int, float] = {}
        self.count = 0
        self.out = make_console()

    def started(self, job: PlannedJob) -> None:
        self.start_times[job.number] = time.monotonic()
        self.print_line(f"{'resumes' if job.can_resume else 'begins':{STATUS_WIDTH}}  {self.title(job)}")

    def ended(self, job: PlannedJob, error: str) -> None:
        self.count += 1
        seconds = time.monotonic() - self.start_times[job.number]
        status, result = ("failed", error) if error else (job.status, format_objective(job))
        said = f"{status:{STATUS_WIDTH}}  {self.title(job)}  {result}"
        self.print_line(f"{said}  {seconds:.1f} s  [{self.count}/{self.total}]")

    def title(self, job: PlannedJob) -> str:
        """Return a job's number and its name."""
        return f"{job.number}  {self.name(job)}".rstrip()

    def print_line(self, text: str) -> None:
        """Print a line without wrapping it."""
        self.out.print(text, soft_wrap=True)


class ProgressTable(ProgressLines):
    """Shows a live table of the running jobs with epoch, objective and time left, below a line for each ended job."""

    def __init__(self, total: int, name: Callable[[PlannedJob], str]) -> None:
        super().__init__(total, name)
        self.running: dict[int, PlannedJob] = {}
        self.display: Live | None = None

    def started(self, job: PlannedJob) -> None:
        from rich.live import Live

        self.start_times[job.number] = time.monotonic()
        self.running[job.number] = job
        if self.display is None:
            # Always a new display: a stopped one, started again, would clear as many earlier lines as its last height.
            self.display = Live(console=self.out, transient=True, auto_refresh=False)
            self.display.start()

    def ended(self, job: PlannedJob, error: str) -> None:
        del self.running[job.number]
        super().ended(job, error)
        if not self.running and self.display is not None:
            self.display.stop()
            self.display = None

    def tick(self) -> None:
        if self.display is not None:
            self.display.update(self.table(), refresh=True)

    def table(self) -> Table:
        """Return the table of running jobs, with the number of ended ones as caption."""
        from rich.table import Table

        table = Table("job", box=None, pad_edge=False)
        table.add_column("", overflow="fold")
        for heading in ("epoch", "objective", "left"):
            table.add_column(heading, no_wrap=True)
        for job in self.running.values():
            table.add_row(str(job.number), self.name(job), *format_progress(job))
        table.caption = f"{self.count} of {self.total} ended"
        return table


def name_by_differences(jobs: Sequence[PlannedJob]) -> Callable[[PlannedJob], str]:
    """Return a function that names a job by the overrides that not all jobs share; a single job by all of them."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return lambda job: " ".join(word for word in job.overrides if word not in common)


def format_objective(job: PlannedJob) -> str:
    """Return the name and value of a job's objective with its epoch, empty if it has none."""
    objective = Run(job.folder).record.get("objective") or {}
    if objective.get("value") is None:
        return ""
    return f"{objective['name']} {format_significant(objective['value'])} (epoch {objective['epoch']})"


def format_progress(job: PlannedJob) -> tuple[str, str, str]:
    """Return epochs, objective and time left of a running job, from its run.json and metrics.csv."""
    goal, rows = read_goal(job), read_epochs(job.folder)
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


def read_goal(job: PlannedJob) -> Mapping[str, Any]:
    """Return the number of epochs and the objective from a job's run.json; empty if it has not started."""
    return Run(job.folder).record.get("goal") or {} if job.status else {}
