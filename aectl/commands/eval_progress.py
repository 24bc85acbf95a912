"""The progress bar of an evaluation: the current table and the remaining ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class TableProgress:
    """Progress bar that is called with the name of each step when the step starts."""

    def __init__(self, steps: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True, highlight=False)
        self.steps = list(steps)
        self.bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task = self.bar.add_task("", total=len(self.steps))

    def __call__(self, step: str) -> None:
        """Advance the bar to a step that starts now."""
        done = self.steps.index(step)
        self.bar.update(self.task, completed=done, description=describe_step(step, self.steps[done + 1 :]))


def describe_step(step: str, left: Sequence[str]) -> str:
    """Return the current and the remaining steps, e.g. `probes, then clusters, likelihood and 3 more`."""
    if not left:
        return step
    named = ", ".join(left[:2])
    return f"{step}, then {named}{f' and {len(left) - 2} more' if len(left) > 2 else ''}"


@contextmanager
def table_progress(steps: Sequence[str]) -> Iterator[TableProgress]:
    """Show a progress bar during the block if stderr is a terminal."""
    progress = TableProgress(steps)
    with progress.bar:
        yield progress
