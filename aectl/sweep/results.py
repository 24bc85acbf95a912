"""Reads the results of a sweep's jobs from their folders, and groups them over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aectl.config import ConfigError
from aectl.config.untrusted_files import read_json, read_yaml_list
from aectl.runs.run_json import check_record
from aectl.runs.settings import find_differing_keys, group_over_seeds
from aectl.runs.sweep_membership import job_number, overrides_by_key
from aectl.training.metrics_csv import METRICS_CSV, read_metrics_csv


@dataclass
class Job:
    """A job of a sweep with its settings and results, as read from its folder."""

    number: int
    folder: Path
    settings: dict[str, str]
    status: str
    error: str = ""
    objective: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def setting(self, key: str) -> str:
        """Return the value that was typed for a key, the empty text if none was."""
        return self.settings.get(key, "")

    @property
    def value(self) -> float:
        """The value of the objective, NaN if there is none."""
        value = self.objective.get("value")
        return math.nan if value is None else float(value)

    @property
    def metric(self) -> str:
        """The name of the metric that the job minimised, empty if unknown."""
        return self.objective.get("name") or ""

    @property
    def rank(self) -> tuple[bool, bool, str, float, int]:
        """Sort key: jobs with an objective first, by metric and value; then those without one; failed jobs last."""
        return (
            self.status == "failed",
            math.isnan(self.value),
            self.metric,
            0.0 if math.isnan(self.value) else self.value,
            self.number,
        )


def read_jobs(folder: Path) -> list[Job]:
    """Return the jobs of a sweep, read from its subfolders named `<number>-<slug>`."""
    numbered = [(job_number(path), path) for path in sorted(folder.iterdir()) if path.is_dir()]
    return [read_job(number, path) for number, path in numbered if number is not None]


def read_job(number: int, folder: Path) -> Job:
    """Return a job, read from its run.json; a job without one, or with the status running, counts as failed."""
    try:
        record = read_json(folder / "run.json")
        check_record(record, folder / "run.json")
    except ConfigError:
        record = {"status": "failed", "error": "it left no readable run.json; see its train.log"}
    if record.get("status") == "running":
        record |= {"status": "failed", "error": "it ended without an error message; it may have been killed"}
    overrides = record.get("overrides")
    if overrides is None:
        path = folder / ".hydra" / "overrides.yaml"
        overrides = read_yaml_list(path) if path.is_file() else []
    error = (str(record.get("error") or "").strip().splitlines() or [""])[-1]
    objective, status = record.get("objective") or {}, record.get("status") or "failed"
    return Job(number, folder, overrides_by_key(overrides), status, error, objective, read_duration(record), record)


def read_epochs(folder: Path) -> list[dict[str, str]]:
    """Return the complete rows of a run's metrics.csv, none if the file is missing or damaged."""
    try:
        return read_metrics_csv(folder / METRICS_CSV)[1]
    except ConfigError:
        return []


def read_duration(record: dict[str, Any]) -> float | None:
    """Return the duration of a run in seconds, None if its record has none."""
    if record.get("seconds") is not None or not (record.get("started") and record.get("ended")):
        return record.get("seconds")
    try:
        return (datetime.fromisoformat(record["ended"]) - datetime.fromisoformat(record["started"])).total_seconds()
    except (ValueError, TypeError):
        return None


def find_swept_keys(jobs: Sequence[Job]) -> list[str]:
    """Return the keys whose values are not the same in all jobs."""
    return find_differing_keys(jobs, dict.fromkeys(key for job in jobs for key in job.settings))


def objectives_over_seeds(
    jobs: Sequence[Job], varied: Sequence[str], *, is_ranked: bool = True
) -> list[tuple[dict[str, str], list[float]]]:
    """Return the finished jobs' objectives, grouped by the settings other than the seed.

    The lowest mean comes first if `is_ranked`, otherwise the setting of the job with the lowest number.
    """
    done = [job for job in jobs if job.status != "failed" and not math.isnan(job.value)]
    groups = group_over_seeds(sorted(done, key=lambda job: job.number), varied)
    others = [key for key in varied if key != "seed"]
    found = [({key: group[0].setting(key) for key in others}, [job.value for job in group]) for group in groups]
    return sorted(found, key=lambda group: statistics.fmean(group[1])) if is_ranked else found


def objective_name(jobs: Sequence[Job]) -> str:
    """Return the name of the metric that the jobs minimised; several names are joined by slashes."""
    names = dict.fromkeys(job.objective["name"] for job in jobs if job.objective.get("name"))
    return " / ".join(names) or "objective"
