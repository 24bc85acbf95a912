"""The end of a sweep: its runs in one table, on the console and in sweep.csv, and what failed."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from aectl.config.folder_names import announce_sweep
from aectl.sweep import tensorboard_seeds
from aectl.sweep.comparable_metric import Comparison, compare
from aectl.sweep.html_report import report
from aectl.sweep.number_formats import P_VALUE, T_INTERVAL, aligned, intervals, probability
from aectl.sweep.results import Job, find_swept_keys, name_of, objectives_over_seeds, read_jobs
from aectl.system.atomic_write import write_atomically
from aectl.system.terminal import display_path, escape_formula, format_count, make_console, shorten_message, wrap_text
from aectl.system.terminal_table import Column, cell_width, pad_row, print_table

if TYPE_CHECKING:
    from rich.console import Console


class SweepTable(Callback):
    """Hydra's callback: at the end of a sweep it prints the runs, best objective first, and writes sweep.csv.

    It exits with code 1 if a job failed, after the others have had their turn, or if the table or a page cannot be
    written.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # A folder's name that cannot be resolved is reported where the folder is made.
        with contextlib.suppress(OmegaConfBaseException):
            announce_sweep(Path(config.hydra.sweep.dir).absolute())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        try:
            close(folder)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(f"aectl: the sweep's table or pages are incomplete: {shorten_message(reason)}", file=sys.stderr)
            # Hydra turns Exceptions of a callback into warnings.
            raise SystemExit(1) from None
        if any(job.status == "failed" for job in read_jobs(folder)):
            raise SystemExit(1)


def close(folder: Path) -> None:
    """Print the table of a sweep's jobs, and write sweep.csv, the page and what TensorBoard shows of seeds."""
    comparison = compare(read_jobs(folder))
    jobs = comparison.ordered()
    if not jobs:
        return
    varied = find_swept_keys(jobs)
    write_csv(folder / "sweep.csv", jobs, varied)
    show(jobs, varied, folder, comparison)
    report(folder, jobs, varied, comparison)
    tensorboard_seeds.write(folder, jobs, varied)
    show_next(jobs, folder)


def write_csv(path: Path, jobs: Sequence[Job], varied: Sequence[str]) -> None:
    """Write the table, in full precision and with each run's folder."""
    rows: list[list[Any]] = [["job", *varied, name_of(jobs), "epoch", "seconds", "status", "folder", "error"]]
    for job in jobs:
        values = [job.setting(key) for key in varied]
        value = "" if math.isnan(job.value) else job.value
        epoch, folder = job.objective.get("epoch", ""), job.folder.name
        rows.append([job.number, *values, value, epoch, job.seconds, job.status, folder, job.error])
    text = io.StringIO(newline="")
    csv.writer(text).writerows([escape_formula(value) for value in row] for row in rows)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def show(jobs: Sequence[Job], varied: Sequence[str], folder: Path, comparison: Comparison) -> None:
    """Print the table, the means over seeds where there are several, and all failures."""
    out = make_console()
    out.print()
    print_jobs(out, jobs, varied, comparison.is_fair)
    if comparison.notice:
        out.print(wrap_text(out, comparison.notice), soft_wrap=True)
    is_ranked = comparison.has_comparable_means
    groups = objectives_over_seeds(jobs, varied, is_ranked=is_ranked)
    if "seed" in varied and any(len(values) > 1 for _, values in groups):
        out.print()
        print_seeds(out, groups, name_of(jobs), is_ranked)
        out.print(f"{T_INTERVAL.name}: {T_INTERVAL.meaning}")
        if is_ranked and len(groups) > 1:
            out.print(wrap_text(out, f"{P_VALUE.name}: {P_VALUE.meaning}"), soft_wrap=True)
    failures = [job for job in jobs if job.status == "failed"]
    if failures:
        out.print(f"\n{len(failures)} of {format_count(len(jobs), 'run')} failed:", style="bold red")
    for job in failures:
        what = " ".join(f"{key}={job.settings[key]}" for key in varied if key in job.settings)
        out.print(f"  {job.number}  {what}  {job.error}", soft_wrap=True)
    out.print(f"\nsweep {shlex.quote(display_path(folder))}", soft_wrap=True)


def show_next(jobs: Sequence[Job], folder: Path) -> None:
    """Print where the page is and, if a run can be evaluated, the command that does it."""
    out, name = make_console(), display_path(folder)
    out.print(f"page  {shlex.quote(f'{name}/report.html')}", soft_wrap=True)
    if any(job.objective for job in jobs):
        out.print(f"next  {shlex.join(['aectl', 'eval', f'run={name}'])}", soft_wrap=True)


def print_jobs(out: Console, jobs: Sequence[Job], varied: Sequence[str], is_fair: bool = True) -> None:
    """Print the table of jobs, a star at the best by each metric; none where the comparison is not fair."""
    metrics, marked = name_of(jobs), set()
    stars = []
    for job in jobs:
        best = is_fair and job.metric not in marked and job.status != "failed" and not math.isnan(job.value)
        marked |= {job.metric} if best else set()
        stars.append("*" if best else " ")
    numbers = aligned([job.value for job in jobs])
    values = [n if job.metric in ("", metrics) else f"{job.metric} {n}" for n, job in zip(numbers, jobs, strict=True)]
    names = Column("  job", [f"{star} {job.number}" for star, job in zip(stars, jobs, strict=True)])
    columns = [Column(key, [job.setting(key) for job in jobs], is_text=True) for key in varied]
    columns += [
        Column(metrics, values),
        Column("epoch", [str(job.objective.get("epoch", "")) for job in jobs]),
        Column("seconds", ["" if job.seconds is None else f"{job.seconds:.1f}" for job in jobs]),
        Column("status", [job.status for job in jobs], is_text=True),
    ]
    print_table(out, names, columns, styles=["bold" if star == "*" else "" for star in stars])


def print_seeds(
    out: Console, groups: Sequence[tuple[dict[str, str], list[float]]], name: str, is_ranked: bool = True
) -> None:
    """Print the table of means over seeds: standard deviation, Student's t interval, p against the best if ranked."""
    best, values = groups[0][1], [group for _, group in groups]
    settings = [list(groups[0][0]), *[list(group.values()) for group, _ in groups]]
    sizes = [max(map(cell_width, values)) for values in zip(*settings, strict=True)]
    heading, *names = [pad_row(row, sizes) for row in settings]
    columns = [
        Column(f"mean {name}", aligned([statistics.fmean(group) for group in values])),
        Column("± std", aligned([statistics.stdev(group) if group[1:] else math.nan for group in values], 2)),
        Column(T_INTERVAL.name, intervals(values)),
        Column("seeds", [str(len(group)) for group in values]),
    ]
    if is_ranked:
        columns.append(Column(P_VALUE.name, ["" if group is best else probability(best, group) for group in values]))
    print_table(out, Column(heading, names), columns)
