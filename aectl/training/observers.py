"""Observers that write metrics.csv and show progress on the terminal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TextIO

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from aectl.system.atomic_write import name_path_in_errors
from aectl.system.terminal import format_significant
from aectl.training.metrics_csv import append_metrics_csv, read_metrics_csv, write_metrics_csv
from aectl.training.trainer import Epoch, Observer, Trainer

log = logging.getLogger("aectl")

ERASE_LINE = "\r\x1b[2K"


class CsvLog(Observer):
    """Writes metrics.csv with one row per epoch; a resume removes the rows after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []

    def started(self, trainer: Trainer) -> None:
        if not self.path.is_file():
            return
        self.columns, rows = read_metrics_csv(self.path)
        write_metrics_csv(self.path, self.columns, [row for row in rows if int(row["epoch"]) <= trainer.epoch])

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        row = {"epoch": str(epoch.number), "stage": epoch.stage}
        row |= {name: repr(value) for name, value in epoch.metrics.items()}
        new = [name for name in row if name not in self.columns]
        if new:
            # A new stage may log other metrics, which need new columns.
            rows = read_metrics_csv(self.path)[1] if self.columns else []
            self.columns += new
            write_metrics_csv(self.path, self.columns, [*rows, row])
            return
        with name_path_in_errors(self.path):
            append_metrics_csv(self.path, self.columns, row)


class EraseBar(logging.Filter):
    """Logging filter that clears the terminal line of the progress bar before a record is printed."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream

    def filter(self, record: logging.LogRecord) -> bool:
        """Clear the line and let the record pass."""
        self.stream.write(ERASE_LINE)
        return True


class Console(Observer):
    """Shows a progress bar on a terminal, else one line per epoch; the log file always gets the lines."""

    fatal = ()

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.filters: list[tuple[logging.Handler, EraseBar]] = []

    def started(self, trainer: Trainer) -> None:
        if not sys.stderr.isatty():
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Terminal(stderr=True), transient=True)
        done = trainer.epoch * trainer.steps_per_epoch + trainer.step
        self.task = self.bar.add_task("training", total=trainer.epochs * trainer.steps_per_epoch, completed=done)
        self.bar.start()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream.isatty():
                self.filters.append((handler, EraseBar(handler.stream)))
                handler.addFilter(self.filters[-1][1])

    def stepped(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.advance(self.task)

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        text = describe(epoch, trainer.objective)
        if self.bar is not None:
            # Short, so that the bar fits into 80 columns.
            value = format_significant(epoch.metrics[trainer.objective])
            self.bar.update(self.task, description=f"epoch {epoch.number}/{epoch.total}  {trainer.objective} {value}")
        log.log(logging.DEBUG if self.bar is not None else logging.INFO, text)

    def finished(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.stop()
        for handler, erase in self.filters:
            handler.removeFilter(erase)
        self.filters.clear()


def describe(epoch: Epoch, objective: str) -> str:
    """Return the line that reports an epoch: number, stage, losses, objective and seconds."""
    stage = "" if epoch.stage == "fit" else f" {epoch.stage}"
    shown = [name for name in epoch.metrics if name.startswith("train/loss") or name == objective]
    shown += [name for name in ("val/mse",) if name in epoch.metrics and name not in shown]
    numbers = "  ".join(f"{name} {format_significant(epoch.metrics[name])}" for name in shown)
    best = "  best" if epoch.is_best else ""
    return f"epoch {epoch.number}/{epoch.total}{stage}  {numbers}  {epoch.metrics['seconds']:.1f} s{best}"
