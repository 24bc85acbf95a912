"""Writes the results of a sweep when it ends: a table on the console and in sweep.csv, and the failed runs."""

from __future__ import annotations

import contextlib
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
from aectl.sweep.comparable_metric import Comparison, compare
from aectl.sweep.html_report import write_report
from aectl.sweep.number_formats import P_VALUE, T_INTERVAL, align_numbers, format_intervals, format_p_value
from aectl.sweep.results import Job, find_swept_keys, objective_name, objectives_over_seeds, read_jobs
from aectl.sweep.tensorboard_seeds import write_seed_means
from aectl.system.csv_file import write_csv
from aectl.system.terminal import display_path, format_count, make_console, shorten_message, wrap_text
from aectl.system.terminal_table import Column, cell_width, pad_row, print_table

if TYPE_CHECKING:
    from rich.console import Console


class SweepTable(Callback):
    """Hydra callback that writes the results when a sweep ends.

    Raises SystemExit with code 1 if a job failed, or if the table or the page cannot be written.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # A folder name that cannot be resolved is reported where the folder is created.
        with contextlib.suppress(OmegaConfBaseException):
            announce_sweep(Path(config.hydra.sweep.dir).absolute())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        try:
            write_results(folder)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(f"aectl: the sweep's table or pages are incomplete: {shorten_message(reason)}", file=sys.stderr)
            # Hydra turns exceptions of a callback into warnings, but not SystemExit.
            raise SystemExit(1) from None
        if any(job.status == "failed" for job in read_jobs(folder)):
            raise SystemExit(1)


def write_results(folder: Path) -> None:
    """Print the table of a sweep's jobs and write sweep.csv, report.html and the means over seeds for TensorBoard."""
    comparison = compare(read_jobs(folder))
    jobs = comparison.sort_jobs()
    if not jobs:
        return
    varied = find_swept_keys(jobs)
    write_sweep_csv(folder / "sweep.csv", jobs, varied)
    print_results(jobs, varied, folder, comparison)
    write_report(folder, jobs, varied, comparison)
    write_seed_means(folder, jobs, varied)
    print_next_command(jobs, folder)


def write_sweep_csv(path: Path, jobs: Sequence[Job], varied: Sequence[str]) -> None:
    """Write the table of jobs with values in full precision and the folder of each run."""
    rows: list[list[Any]] = [["job", *varied, objective_name(jobs), "epoch", "seconds", "status", "folder", "error"]]
    for job in jobs:
        values = [job.setting(key) for key in varied]
        value = "" if math.isnan(job.value) else job.value
        epoch, folder = job.objective.get("epoch", ""), job.folder.name
        rows.append([job.number, *values, value, epoch, job.seconds, job.status, folder, job.error])
    write_csv(path, rows)


def print_results(jobs: Sequence[Job], varied: Sequence[str], folder: Path, comparison: Comparison) -> None:
    """Print the table of jobs, the means over seeds if there are several, and the failed jobs."""
    out = make_console()
    out.print()
    print_jobs(out, jobs, varied, comparison.is_fair)
    if comparison.notice:
        out.print(wrap_text(out, comparison.notice), soft_wrap=True)
    is_ranked = comparison.has_comparable_means
    groups = objectives_over_seeds(jobs, varied, is_ranked=is_ranked)
    if "seed" in varied and any(len(values) > 1 for _, values in groups):
        out.print()
        print_seeds(out, groups, objective_name(jobs), is_ranked)
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


def print_next_command(jobs: Sequence[Job], folder: Path) -> None:
    """Print the path of the page and, if a run can be evaluated, the command that evaluates it."""
    out, name = make_console(), display_path(folder)
    out.print(f"page  {shlex.quote(f'{name}/report.html')}", soft_wrap=True)
    if any(job.objective for job in jobs):
        out.print(f"next  {shlex.join(['aectl', 'eval', f'run={name}'])}", soft_wrap=True)


def print_jobs(out: Console, jobs: Sequence[Job], varied: Sequence[str], is_fair: bool = True) -> None:
    """Print the table of jobs; if the comparison is fair, a star marks the best job of each metric."""
    metrics, marked = objective_name(jobs), set()
    stars = []
    for job in jobs:
        best = is_fair and job.metric not in marked and job.status != "failed" and not math.isnan(job.value)
        marked |= {job.metric} if best else set()
        stars.append("*" if best else " ")
    numbers = align_numbers([job.value for job in jobs])
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
    """Print the means over seeds with standard deviation, t interval and, if ranked, p-value compared with the best."""
    best, values = groups[0][1], [group for _, group in groups]
    settings = [list(groups[0][0]), *[list(group.values()) for group, _ in groups]]
    sizes = [max(map(cell_width, values)) for values in zip(*settings, strict=True)]
    heading, *names = [pad_row(row, sizes) for row in settings]
    columns = [
        Column(f"mean {name}", align_numbers([statistics.fmean(group) for group in values])),
        Column("± std", align_numbers([statistics.stdev(group) if group[1:] else math.nan for group in values], 2)),
        Column(T_INTERVAL.name, format_intervals(values)),
        Column("seeds", [str(len(group)) for group in values]),
    ]
    if is_ranked:
        columns.append(Column(P_VALUE.name, ["" if group is best else format_p_value(best, group) for group in values]))
    print_table(out, Column(heading, names), columns)
