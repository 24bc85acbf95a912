"""The end of a sweep: its runs in one table, on the console and in sweep.csv, and what failed."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from aectl.terminal import console


@dataclass
class Job:
    """One run of a sweep, as its folder tells it."""

    number: int
    folder: Path
    settings: dict[str, str]
    status: str
    error: str = ""
    objective: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def value(self) -> float:
        """The objective, or nan."""
        value = self.objective.get("value")
        return math.nan if value is None else float(value)

    @property
    def metric(self) -> str:
        """The name of what the job minimised."""
        return self.objective.get("name") or ""

    @property
    def rank(self) -> tuple[bool, bool, str, float, int]:
        """What to sort by: failed jobs last, before them those without an objective; each metric by itself."""
        return (
            self.status == "failed",
            math.isnan(self.value),
            self.metric,
            0.0 if math.isnan(self.value) else self.value,
            self.number,
        )


class SweepTable(Callback):
    """Hydra's callback: at the end of a sweep it prints the runs, best objective first, and writes sweep.csv.

    It leaves with exit code 1 if a job failed, after the others have had their turn.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        jobs = sorted(read_jobs(folder), key=lambda job: job.rank)
        if not jobs:
            return
        varied = differing(jobs)
        write_csv(folder / "sweep.csv", jobs, varied)
        show(jobs, varied, folder)
        if any(job.status == "failed" for job in jobs):
            # Hydra turns Exceptions of a callback into warnings.
            raise SystemExit(1)


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a sweep, those whose folders are named <number>-<slug>."""
    numbered = [(path.name.partition("-")[0], path) for path in folder.iterdir() if path.is_dir()]
    return [read_job(int(number), path) for number, path in sorted(numbered) if number.isdigit()]


def read_job(number: int, folder: Path) -> Job:
    """Return what a job's run.json says; one without a record, or that never ended, counts as failed."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        record = {"status": "failed", "error": "it left no record; see its train.log"}
    if record.get("status") == "running":
        record |= {"status": "failed", "error": "it ended without a word, as after being killed"}
    overrides = record.get("overrides")
    if overrides is None:
        path = folder / ".hydra" / "overrides.yaml"
        overrides = list(OmegaConf.load(path)) if path.is_file() else []
    error = (str(record.get("error") or "").strip().splitlines() or [""])[-1]
    objective, status = record.get("objective") or {}, record.get("status", "failed")
    return Job(number, folder, settings(overrides), status, error, objective, seconds_of(record))


def seconds_of(record: dict[str, Any]) -> float | None:
    """Return how long a run took; None where its record does not tell."""
    if record.get("seconds") is not None or not (record.get("started") and record.get("ended")):
        return record.get("seconds")
    return (datetime.fromisoformat(record["ended"]) - datetime.fromisoformat(record["started"])).total_seconds()


def settings(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by their keys."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def differing(jobs: Sequence[Job]) -> list[str]:
    """Return the keys whose values are not the same in all jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def over_seeds(jobs: Sequence[Job], varied: Sequence[str]) -> list[tuple[dict[str, str], list[float]]]:
    """Return the finished jobs' objectives, grouped by what differs beside the seed, the best mean first."""
    groups: dict[tuple[str, ...], list[float]] = {}
    others = [key for key in varied if key != "seed"]
    for job in jobs:
        if job.status != "failed" and not math.isnan(job.value):
            groups.setdefault(tuple(job.settings.get(key, "") for key in others), []).append(job.value)
    named = [(dict(zip(others, values, strict=True)), objectives) for values, objectives in groups.items()]
    return sorted(named, key=lambda group: statistics.fmean(group[1]))


def write_csv(path: Path, jobs: Sequence[Job], varied: Sequence[str]) -> None:
    """Write the table, in full precision and with each run's folder."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["job", *varied, name_of(jobs), "epoch", "seconds", "status", "folder", "error"])
        for job in jobs:
            values = [job.settings.get(key, "") for key in varied]
            value = "" if math.isnan(job.value) else job.value
            epoch, folder = job.objective.get("epoch", ""), job.folder.name
            writer.writerow([job.number, *values, value, epoch, job.seconds, job.status, folder, job.error])


def name_of(jobs: Sequence[Job]) -> str:
    """Return the metric that the jobs minimised; models may differ in theirs."""
    names = dict.fromkeys(job.objective["name"] for job in jobs if job.objective.get("name"))
    return " / ".join(names) or "objective"


def show(jobs: Sequence[Job], varied: Sequence[str], folder: Path) -> None:
    """Print the table, the means over seeds where there are several, and all failures."""
    out = console()
    out.print()
    out.print(table_of_jobs(jobs, varied))
    groups = over_seeds(jobs, varied)
    if "seed" in varied and any(len(values) > 1 for _, values in groups):
        out.print()
        out.print(table_of_seeds(groups, name_of(jobs)))
    failures = [job for job in jobs if job.status == "failed"]
    if failures:
        out.print(f"\n{len(failures)} of {len(jobs)} runs failed:", style="bold red")
    for job in failures:
        what = " ".join(f"{key}={job.settings[key]}" for key in varied if key in job.settings)
        out.print(f"  {job.number}  {what}  {job.error}", soft_wrap=True)
    out.print(f"\nsweep {folder}", soft_wrap=True)


def table_of_jobs(jobs: Sequence[Job], varied: Sequence[str]) -> Any:
    """Return the printable table of jobs; the best is marked with a star, one for each metric minimised."""
    from rich.table import Table

    table = Table("", "job", *varied, box=None, pad_edge=False)
    for heading in (name_of(jobs), "epoch", "seconds", "status"):
        table.add_column(heading, justify="left" if heading == "status" else "right")
    metrics, marked = name_of(jobs), set()
    for job in jobs:
        best = job.metric not in marked and job.status != "failed" and not math.isnan(job.value)
        marked |= {job.metric} if best else set()
        time = "" if job.seconds is None else f"{job.seconds:.1f}"
        cells = [job.settings.get(key, "") for key in varied]
        value = number(job.value) if job.metric in ("", metrics) else f"{job.metric} {number(job.value)}"
        cells += [value, str(job.objective.get("epoch", "")), time, job.status]
        table.add_row("*" if best else "", str(job.number), *cells, style="bold" if best else None)
    return table


def table_of_seeds(groups: Sequence[tuple[dict[str, str], list[float]]], name: str) -> Any:
    """Return the printable table of means and standard deviations over seeds."""
    from rich.table import Table

    table = Table(*groups[0][0], box=None, pad_edge=False)
    for heading in (f"mean {name}", "± std", "seeds"):
        table.add_column(heading, justify="right")
    for group, values in groups:
        spread = f"{statistics.stdev(values):.2g}" if len(values) > 1 else "-"
        table.add_row(*group.values(), number(statistics.fmean(values)), spread, str(len(values)))
    return table


def number(value: float) -> str:
    """Return a number in five significant digits, a dash for nan."""
    return "-" if math.isnan(value) else f"{value:.5g}"
