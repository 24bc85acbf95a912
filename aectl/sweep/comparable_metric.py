"""Decide by which metric the jobs of a sweep can be compared.

A loss that contains the weight of a penalty is lowest where that weight is 0, and the losses of two models are
different quantities: such jobs are compared by another metric that all of them have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from aectl.sweep.results import Job, find_swept_keys, read_epochs

ALTERNATIVES = ("val/negative_elbo", "val/mse")
"""Metrics to compare by where the objective is not comparable, the first that all jobs have."""

CONTAINED = {
    "loss": ("model", "model._target_", "experiment", "penalty", "noise", "dataset"),
    "mse": ("noise", "dataset"),
}
"""Groups and keys that a metric's formula contains whatever the model is, by the metric."""
ALWAYS = ("dataset",)


class Comparison(NamedTuple):
    """The jobs of a sweep with the objectives that they are compared by."""

    jobs: list[Job]
    notice: str = ""
    """A sentence where these are not what each job minimised."""
    is_fair: bool = True
    """Whether one of them can be called the best, or one for each metric."""

    @property
    def has_comparable_means(self) -> bool:
        """Whether means over seeds can be ranked: the comparison is fair and all jobs have the same metric."""
        return self.is_fair and len({job.metric for job in self.jobs if not math.isnan(job.value)}) < 2

    def ordered(self) -> list[Job]:
        """Return the jobs by rank if the comparison is fair, otherwise by number."""
        return sorted(self.jobs, key=lambda job: job.rank if self.is_fair else job.number)


def compare(jobs: Sequence[Job]) -> Comparison:
    """Return the jobs with objectives that can be compared, or as they are where no metric can be compared."""
    done = [job for job in jobs if not math.isnan(job.value)]
    reason = why_not_comparable(done)
    if not reason:
        return Comparison(list(jobs))
    for metric in ALTERNATIVES:
        values = {job.number: value_at_best(job, metric) for job in done}
        if contained(metric, done) or any(value is None for value in values.values()):
            continue
        ranked = [with_metric(job, metric, values.get(job.number)) for job in jobs]
        return Comparison(ranked, f"{reason}: ranked by {metric} at each job's best epoch")
    by_metric = {name: [job for job in done if job.metric == name] for name in {job.metric for job in done}}
    is_fair = not any(contained(name, group) for name, group in by_metric.items())
    return Comparison(list(jobs), f"{reason}, and no other metric can be compared: try aectl eval", is_fair)


def with_metric(job: Job, metric: str, value: float | None) -> Job:
    """Return a job with another metric in place of its objective; one without an objective as it is."""
    return job if value is None else replace(job, objective={**job.objective, "name": metric, "value": value})


def why_not_comparable(jobs: Sequence[Job]) -> str:
    """Return why jobs cannot be compared by what they minimised, the empty text if they can."""
    names = list(dict.fromkeys(job.metric for job in jobs if job.metric))
    if len(names) > 1:
        return f"the jobs minimised different metrics ({', '.join(names)})"
    if names and (keys := contained(names[0], jobs)):
        return f"{names[0]} cannot be compared between these jobs, since its definition contains {', '.join(keys)}"
    return ""


def contained(metric: str, jobs: Sequence[Job]) -> list[str]:
    """Return the settings in which jobs differ and which the formula of a metric contains."""
    name = metric.partition("/")[2]
    of_models = {key for job in jobs for key in settings_of(job, name)}
    known = CONTAINED.get(name, ALWAYS)
    return [
        key
        for key in find_swept_keys(jobs)
        if key in known
        or (key.split(".")[0] in known and key.split(".")[0] != "model")
        or (key.startswith("model.") and key.removeprefix("model.") in of_models)
    ]


def settings_of(job: Job, metric: str) -> list[str]:
    """Return the arguments of a job's model that a metric's formula contains, as its run.json lists them."""
    listed = ((job.record.get("goal") or {}).get("metric_settings") or {}).get(metric)
    return [str(key) for key in listed] if isinstance(listed, list) else []


def value_at_best(job: Job, metric: str) -> float | None:
    """Return a metric at the epoch of a job's best objective, None if metrics.csv does not have it."""
    for row in read_epochs(job.folder):
        if row.get("epoch") == str(job.objective.get("epoch")):
            try:
                value = float(row.get(metric) or math.nan)
            except ValueError:
                return None
            return None if math.isnan(value) else value
    return None
