"""Chooses a metric by which the jobs of a sweep can be compared.

The values of an objective cannot be compared if a swept setting changes its formula. A loss that contains the weight
of a penalty, for example, is lowest where that weight is 0, and the losses of two models are different quantities. Such
jobs are compared by another metric that all of them have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from aectl.sweep.results import Job, find_swept_keys, read_epochs

ALTERNATIVES = ("val/negative_elbo", "val/mse")
"""Metrics that replace an objective that cannot be compared, in the order of preference."""

FORMULA_SETTINGS = {
    "loss": ("model", "model._target_", "experiment", "penalty", "noise", "dataset"),
    "mse": ("noise", "dataset"),
}
"""Config groups and keys that change the formula of a metric, by the metric, for every model."""
DEFAULT_SETTINGS = ("dataset",)
"""Config groups and keys that change the formula of every other metric."""


class Comparison(NamedTuple):
    """The jobs of a sweep with the objectives by which they are compared."""

    jobs: list[Job]
    notice: str = ""
    """Says why the objectives are not those that the jobs minimised, or cannot be compared; otherwise empty."""
    is_fair: bool = True
    """Whether the jobs with the same metric can be ranked."""

    @property
    def has_comparable_means(self) -> bool:
        """Whether means over seeds can be ranked: the comparison is fair and all jobs have the same metric."""
        return self.is_fair and len({job.metric for job in self.jobs if not math.isnan(job.value)}) < 2

    def sort_jobs(self) -> list[Job]:
        """Return the jobs by rank if the comparison is fair, otherwise by number."""
        return sorted(self.jobs, key=lambda job: job.rank if self.is_fair else job.number)


def compare(jobs: Sequence[Job]) -> Comparison:
    """Return the comparison of the jobs: by their own objective if its values can be compared, else by another metric.

    The first of `ALTERNATIVES` that all jobs have is taken. Without one, the objectives stay and the notice says why.
    """
    done = [job for job in jobs if not math.isnan(job.value)]
    reason = why_not_comparable(done)
    if not reason:
        return Comparison(list(jobs))
    for metric in ALTERNATIVES:
        values = {job.number: read_value_at_best(job, metric) for job in done}
        if find_formula_settings(metric, done) or any(value is None for value in values.values()):
            continue
        ranked = [replace_objective(job, metric, values.get(job.number)) for job in jobs]
        return Comparison(ranked, f"{reason}: ranked by {metric} at each job's best epoch")
    by_metric = {name: [job for job in done if job.metric == name] for name in {job.metric for job in done}}
    is_fair = not any(find_formula_settings(name, group) for name, group in by_metric.items())
    return Comparison(list(jobs), f"{reason}, and no other metric can be compared: try aectl eval", is_fair)


def replace_objective(job: Job, metric: str, value: float | None) -> Job:
    """Return the job with a metric and its value as objective; unchanged if the value is None."""
    return job if value is None else replace(job, objective={**job.objective, "name": metric, "value": value})


def why_not_comparable(jobs: Sequence[Job]) -> str:
    """Return the reason why the objectives of jobs cannot be compared, empty if they can."""
    names = list(dict.fromkeys(job.metric for job in jobs if job.metric))
    if len(names) > 1:
        return f"the jobs minimised different metrics ({', '.join(names)})"
    if names and (keys := find_formula_settings(names[0], jobs)):
        return f"{names[0]} cannot be compared between these jobs, since its definition contains {', '.join(keys)}"
    return ""


def find_formula_settings(metric: str, jobs: Sequence[Job]) -> list[str]:
    """Return the settings that differ between jobs and change the formula of a metric."""
    name = metric.partition("/")[2]
    model_keys = {key for job in jobs for key in read_metric_settings(job, name)}
    known = FORMULA_SETTINGS.get(name, DEFAULT_SETTINGS)
    return [
        key
        for key in find_swept_keys(jobs)
        if key in known
        or (key.split(".")[0] in known and key.split(".")[0] != "model")
        or (key.startswith("model.") and key.removeprefix("model.") in model_keys)
    ]


def read_metric_settings(job: Job, metric: str) -> list[str]:
    """Return the parameters of a job's model that change the formula of a metric, as listed in run.json."""
    listed = ((job.record.get("goal") or {}).get("metric_settings") or {}).get(metric)
    return [str(key) for key in listed] if isinstance(listed, list) else []


def read_value_at_best(job: Job, metric: str) -> float | None:
    """Return the value of a metric in the epoch of a job's best objective, None if metrics.csv has none."""
    for row in read_epochs(job.folder):
        if row.get("epoch") == str(job.objective.get("epoch")):
            try:
                value = float(row.get(metric) or math.nan)
            except ValueError:
                return None
            return None if math.isnan(value) else value
    return None
