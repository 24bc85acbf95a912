"""Compare measured numbers with published ones, and check the bounds that an experiment states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from aectl.evaluation.context import Row, Rows
from aectl.metric import Metric
from aectl.runs.metrics_json import is_number

METRICS = (
    Metric("ours", "value measured here"),
    Metric("difference", "ours minus the reference"),
    Metric("bound", "bound that the experiment states"),
)
"""Columns of the table that `compare` returns."""
KEYS = ("table", "row", "measure", "value", "within", "at_most", "at_least", "source")
"""Keys of a reference: where the measured number is, the published value, a bound, and the source.

A value or a bound may also be the name of a row of the same table, such as a baseline.
"""
BOUNDS = ("within", "at_most", "at_least")


def check(references: Mapping[str, Any]) -> None:
    """Raise ValueError unless each reference has a table, a measure, no unknown key, and at most one bound.

    The bound `within` needs a published `value`; `at_most` and `at_least` do not.
    """
    for name, one in references.items():
        if not isinstance(one, Mapping) or not {"table", "measure"} <= set(one):
            raise ValueError(f"reference.{name} must have a table and a measure")
        if unknown := [key for key in one if key not in KEYS]:
            raise ValueError(f"reference.{name}: no key '{unknown[0]}', choose from {', '.join(KEYS)}")
        if sum(one.get(key) is not None for key in BOUNDS) > 1:
            raise ValueError(f"reference.{name} must have one of {', '.join(BOUNDS)}, not several")
        if one.get("within") is not None and one.get("value") is None:
            raise ValueError(f"reference.{name}: without a value there is nothing to be within {one['within']} of")
        for key in ("value", "at_most", "at_least"):
            if not (one.get(key) is None or isinstance(one[key], str) or is_number(one[key])):
                raise ValueError(f"reference.{name}.{key} must be a number or the name of a row, not {one[key]}")
        if not (one.get("within") is None or is_number(one["within"])):
            raise ValueError(f"reference.{name}.within must be a number, not {one['within']}")


def compare(tables: Mapping[str, Rows], references: Mapping[str, Any]) -> Rows:
    """Return a row for each reference: `ours` with its interval, `reference`, `difference`, `bound`, `verdict`.

    The verdict is PASS or FAIL, "no bound" or "no reference" if the reference has none, and "not measured" if the
    evaluation does not have the number.
    """
    return {name: row(tables, one) for name, one in references.items()}


def row(tables: Mapping[str, Rows], one: Mapping[str, Any]) -> Row:
    """Return the row of one reference."""
    rows, measure = tables.get(one["table"], {}), one["measure"]
    measured = rows.get(one.get("row") or "model", {})
    one = {key: number(rows, measure, told) if key in (*BOUNDS, "value") else told for key, told in one.items()}
    ours, value = measured.get(measure), one.get("value")
    found: Row = {"measure": measure}
    if ours is not None:
        found["ours"] = ours
        found |= {f"ours{end}": measured[measure + end] for end in ("_ci95", "_sd") if measure + end in measured}
    if is_number(value):
        found["reference"] = value
    if is_number(ours) and is_number(value):
        found["difference"] = ours - value
    found["bound"] = bound(one)
    found["verdict"] = verdict(cast("float | None", ours), one)
    found["source"] = one.get("source") or ""
    return found


def number(rows: Rows, measure: str, told: float | str | None) -> float | str | None:
    """Return a row's number in place of its name; numbers, and names of rows that are missing, stay."""
    return rows.get(told, {}).get(measure, told) if isinstance(told, str) else told


def bound(one: Mapping[str, Any]) -> str:
    """Return the bound as text, e.g. `≤ 90`."""
    signs = {"within": "± ", "at_most": "≤ ", "at_least": "≥ "}
    key = next((key for key in BOUNDS if one.get(key) is not None), None)
    if key is None:
        return "none"
    return signs[key] + (f"{one[key]:g}" if is_number(one[key]) else one[key])


def verdict(ours: float | None, one: Mapping[str, Any]) -> str:
    """Return PASS or FAIL, or the reason why there is neither."""
    if ours is None or any(isinstance(one.get(key), str) for key in (*BOUNDS, "value")):
        return "not measured"
    tests: Iterable[tuple[str, bool]] = (
        ("within", abs(ours - (one.get("value") or 0.0)) <= (one.get("within") or 0.0)),
        ("at_most", ours <= (one.get("at_most") or 0.0)),
        ("at_least", ours >= (one.get("at_least") or 0.0)),
    )
    for key, holds in tests:
        if one.get(key) is not None:
            return "PASS" if holds else "FAIL"
    return "no bound" if one.get("value") is not None else "no reference"
