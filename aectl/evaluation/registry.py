"""The evaluation of a model: one table for each of its abilities, with baselines in the same table.

Tables are declared where they are measured: each module of this package may assign a tuple to `EVALUATIONS`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from aectl import evaluation as package
from aectl.evaluation.context import Rows, Subject, Unmeasured
from aectl.evaluation.evaluation import Evaluation
from aectl.models.base import Model


def find_evaluations() -> Iterator[Evaluation]:
    """Yield the tables that the modules of this package declare."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name != __name__:
            yield from getattr(importlib.import_module(module.name), "EVALUATIONS", ())


EVALUATIONS = tuple(sorted(find_evaluations(), key=lambda one: (one.order, one.name)))
"""All tables, in the order in which they are made and shown."""
HEADLINES = {one.name: one.headline for one in EVALUATIONS if one.headline is not None}
"""Headlines by table."""
METRICS = {one.name: one.metrics for one in EVALUATIONS}
"""Descriptions of the columns by table."""
SETTINGS = {one.name: one.settings for one in EVALUATIONS}
"""Keys of `aectl eval` that change a table's numbers, in addition to `seed`."""


@dataclass
class Report:
    """Tables by name, the seconds each took, and for each that the data do not allow, why it is missing."""

    tables: dict[str, Rows] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


def lacking(model: Model, table: str, sampler: Sequence[str] = ()) -> str:
    """Return which ability a model lacks for a table; the empty text if it lacks none."""
    return next(one for one in EVALUATIONS if one.name == table).lacking(model, sampler)


def report(subject: Subject, only: Iterable[str] = (), told: Callable[[str], None] = lambda name: None) -> Report:
    """Return the tables that the model's abilities allow, or those of them in `only`; calls `told` before each."""
    result, chosen = Report(), tuple(only)
    for evaluation in EVALUATIONS:
        if (chosen and evaluation.name not in chosen) or evaluation.lacking(subject.model, subject.sampler):
            continue
        told(evaluation.name)
        start = perf_counter()
        try:
            result.tables[evaluation.name] = evaluation.measure(subject)
        except Unmeasured as reason:
            result.missing[evaluation.name] = str(reason)
        result.seconds[evaluation.name] = perf_counter() - start
    return result
