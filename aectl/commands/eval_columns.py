"""Describe the columns of an evaluation's tables, for metrics.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aectl.config import ConfigError
from aectl.config.allowlist import may_be_called, may_be_looked_up
from aectl.config.import_name import locate
from aectl.evaluation import references
from aectl.evaluation.registry import METRICS
from aectl.metric import describe_columns
from aectl.models.base import Model, collect_metrics
from aectl.runs.metrics_json import COLUMNS, Rows, column_names, tables_of
from aectl.runs.run import Run

OBJECTIVE, PUBLISHED = "objective", "published"
"""Tables that no evaluation module makes: the metrics of training, and the comparison with published numbers."""


def describe_tables(tables: Mapping[str, Rows], model: type[Model]) -> dict[str, dict[str, Any]]:
    """Return the descriptions of the columns of each table; those of `objective` are the model's own."""
    known = {**METRICS, OBJECTIVE: collect_metrics(model), PUBLISHED: references.METRICS}
    return {name: describe_columns(column_names(rows.values()), known.get(name, ())) for name, rows in tables.items()}


def add_descriptions(run: Run, section: dict[str, Any]) -> dict[str, Any]:
    """Return a section of metrics.json with descriptions of its columns; aectl 0.1 wrote none."""
    if COLUMNS in section:
        return section
    return {**section, COLUMNS: describe_tables(tables_of(section), model_class(run))}


def model_class(run: Run) -> type[Model]:
    """Return the class of a run's model; `Model` for classes outside aectl, whose modules are not imported."""
    try:
        target = run.config()["model"]["_target_"]
        found = locate(target) if may_be_looked_up(target, ()) else Model
    except (ConfigError, ImportError, LookupError, TypeError):
        return Model
    return found if isinstance(found, type) and issubclass(found, Model) and may_be_called(found, ()) else Model
