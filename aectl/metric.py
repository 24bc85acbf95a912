"""Describe a metric: a column of a table, with its meaning, better direction, unit and format.

A metric is declared next to the code that computes it. metrics.json stores the description of each of its columns, and
the terminal, report.html, the leaderboard and TensorBoard read it there, without importing torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

ARROWS = {"lower": "↓", "higher": "↑", "": ""}
FORMAT = re.compile(r"\.\d[efg]", re.ASCII)
"""A format is bounded: metrics.json may come from a stranger, and `.999999999f` would fill the memory."""


@dataclass(frozen=True)
class Metric:
    """A column of a table.

    Raises ValueError for an unknown direction or format.
    """

    name: str
    """The column's name, or a pattern for several columns: `auroc_*`."""
    meaning: str = ""
    """One line without the unit, which begins with a small letter."""
    better: Literal["lower", "higher", ""] = ""
    unit: str = ""
    format: str = ""
    """How a number is printed, such as `.1f`. If empty, the digits follow from the number's spread, else there are four
    significant ones."""
    detail: bool = False
    """Whether a leaderboard leaves the column out if the table has others."""
    condition: bool = False
    """Whether the number states how the others were measured, so that rows that differ in it are not compared.

    Texts always do."""
    alike: tuple[str, ...] = ()
    """Texts of this column whose rows may be compared with each other."""

    def __post_init__(self) -> None:
        if self.better not in ARROWS:
            raise ValueError(f"metric {self.name}: better must be 'lower', 'higher' or '', not {self.better!r}")
        if self.format and not FORMAT.fullmatch(self.format):
            raise ValueError(f"metric {self.name}: format must be like '.1f', not {self.format!r}")

    @property
    def arrow(self) -> str:
        """↓ if lower is better, ↑ if higher is, else the empty text."""
        return ARROWS[self.better]

    @property
    def heading(self) -> str:
        """The name with the arrow: `mse ↓`."""
        return f"{self.name} {self.arrow}".strip()

    @property
    def description(self) -> str:
        """The meaning with the unit; the empty text if there is no meaning."""
        return f"{self.meaning}, in {self.unit}" if self.meaning and self.unit else self.meaning

    @property
    def summary(self) -> str:
        """The description with the direction, e.g. `mean squared error per pixel (lower is better)`."""
        return f"{self.description} ({self.better} is better)" if self.better else self.description

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are set, except for the name, as metrics.json stores them."""
        return {key: value for key, value in asdict(self).items() if key != "name" and value}


def read_metric(name: str, stored: Any) -> Metric:
    """Return the metric that `Metric.to_json` described; unknown fields are ignored.

    Raises ValueError for what it does not write.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"metric {name}: not a description: {stored!r:.40}")
    known: dict[str, Any] = {field.name: field.default for field in fields(Metric) if field.name != "name"}
    found: dict[str, Any] = {key: value for key, value in stored.items() if key in known}
    if isinstance(found.get("alike"), list):
        found["alike"] = tuple(found["alike"])
    for key, value in found.items():
        if type(value) is not type(known[key]):
            raise ValueError(f"metric {name}: {key} is {value!r:.40}")
    if not all(isinstance(text, str) for text in found.get("alike", ())):
        raise ValueError(f"metric {name}: alike is not a list of texts")
    return Metric(name, **found)


def find_metric(metrics: Iterable[Metric], name: str) -> Metric:
    """Return the metric of a column: the one of that name, else the first whose pattern fits, else one without meaning.

    The result has the column's own name.
    """
    metrics = list(metrics)
    exact = (one for one in metrics if one.name == name)
    fitting = (one for one in metrics if fnmatchcase(name, one.name))
    found = next(exact, None) or next(fitting, None)
    return replace(found, name=name) if found else Metric(name)


def describe_columns(names: Iterable[str], metrics: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """Return the descriptions of columns for metrics.json, without those that no metric describes."""
    metrics = list(metrics)
    found = {name: find_metric(metrics, name).to_json() for name in names}
    return {name: description for name, description in found.items() if description}
