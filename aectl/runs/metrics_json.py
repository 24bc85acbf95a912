"""Read and check the tables in metrics.json, find the best row of a column, and format cells.

metrics.json has a section for each split. A table in it maps row names to rows, and a row maps column names to numbers
and texts. `mse_ci95` is half the width of the 95 % confidence interval of `mse`, and `mse_sd` its standard deviation:
both are printed after the number. The section's `columns` describe the columns of each table, see `aectl.metric`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from aectl.metric import Metric, find_metric, read_metric
from aectl.system.terminal import format_significant

Row = Mapping[str, Any]
Rows = Mapping[str, Row]

MODEL = "model"
"""The model's row; `model, likelihood` is another of its rows. All other rows are baselines."""
SPREADS = ("_ci95", "_sd")
"""Endings of the names of spreads."""

TEXTS = ("missing", "titles")
"""Keys of a section that hold a text for each table."""
MADE = "made"
"""Key of a section that holds each table's origin: checkpoint, epoch, weights, settings, time, and why it is stale."""
COLUMNS = "columns"
"""Key of a section that holds the description of each table's columns. Sections of aectl 0.1 have none."""

MEAN_IMAGE = "mean image"
"""The row whose squared error is the variance of the images."""
COPY = 1e-3
"""Principal components whose squared error is below this share of the variance nearly copy the image."""

LARGEST = 2**63
"""Whole numbers must be smaller: Python cannot divide integers that do not fit in a float."""


def is_spread(column: str) -> bool:
    """Return whether a column is the spread of another one."""
    return column.endswith(SPREADS)


def is_model_row(name: str) -> bool:
    """Return whether a row is the model's, not a baseline's."""
    return name == MODEL or name.startswith(f"{MODEL}, ")


def find_model_row(rows: Rows) -> Row:
    """Return the model's first row, such as `model` or `model, mixture on codes`; empty if it has none."""
    return next((row for name, row in rows.items() if is_model_row(name)), {})


def competes(name: str, rows: Rows) -> bool:
    """Return whether a row can be the best; principal components that nearly copy the image cannot.

    They copy if their squared error is below `COPY` times that of the mean image, as with 50 components of 64 pixels.
    """
    variance = rows.get(MEAN_IMAGE, {}).get("mse")
    return not count_components(name, rows[name]) or not is_number(variance) or rows[name]["mse"] > COPY * variance


def count_components(name: str, row: Row) -> int:
    """Return the number of principal components that a row reconstructs images from, 0 for other rows."""
    return pca_size(name) if is_number(row.get("mse")) else 0


def pca_size(name: str) -> int:
    """Return the number in a row's name such as `PCA-32`, 0 for other names."""
    size = name.removeprefix("PCA-")
    return int(size) if name != size and size.isdecimal() and len(size) < 10 else 0


def copies_note(rows: Rows) -> str:
    """Return which rows cannot be the best because they nearly copy the image; the empty text if there are none."""
    copies = [name for name in rows if not competes(name, rows)]
    verb = "nearly copies" if len(copies) == 1 else "nearly copy"
    share = f"over {100 * (1 - COPY):.1f} % of the variance"
    return f"{', '.join(copies)} {verb} the image ({share}), not counted as best" if copies else ""


def pca_legend(tables: Mapping[str, Rows]) -> str:
    """Return why PCA rows have other numbers of components than the code has units; the empty text if none do."""
    sizes = {name: sorted(filter(None, map(pca_size, rows))) for name, rows in tables.items()}
    units = tables.get("codes", {}).get(MODEL, {}).get("units")
    found: dict[int, str] = {}
    rank = "the rank of the training images"
    for name in ("reconstruction", "codes", "probes", "clusters"):
        for size in sizes.get(name, [])[-1:]:
            if not is_number(units):
                found[size] = f"as many components as the code has units, at most {rank}"
            elif size < units:
                found[size] = f"fewer components than the code has units ({units:,.0f}): {rank}"
    for size in sizes.get("reconstruction", [])[:-1]:
        found[size] = "as many components as units are active on the average image"
    for size in sizes.get("anomalies", []):
        if size != units:
            found.setdefault(size, "a quarter as many components as pixels, at most 64 and the rank")
    return "; ".join(f"PCA-{size}: {why}" for size, why in found.items())


def tables_of(section: Mapping[str, Any]) -> dict[str, Rows]:
    """Return the tables of a section by name."""
    others = (*TEXTS, MADE, COLUMNS)
    found = {name: rows for name, rows in section.items() if isinstance(rows, dict) and name not in others}
    return {name: rows for name, rows in found.items() if all(isinstance(row, dict) for row in rows.values())}


def metrics_of_table(section: Mapping[str, Any], table: str) -> tuple[Metric, ...]:
    """Return the descriptions of a table's columns; empty for a section without them."""
    stored = (section.get(COLUMNS) or {}).get(table) or {}
    return tuple(read_metric(name, description) for name, description in stored.items())


def find_damage(section: Mapping[str, Any]) -> str:
    """Return the first key of a section with a value of a wrong type, an empty string if there is none.

    The section may come from an untrusted source: numbers must be usable in computations.
    """
    for key, kind in (
        ("images", int),
        ("epoch", int),
        ("fingerprint", str),
        ("quick", str),
        ("when", str),
        *((key, dict) for key in (*TEXTS, MADE, COLUMNS)),
    ):
        if section.get(key) is not None and type(section[key]) is not kind:
            return key
    if not are_verdicts(section.get("verdicts")):
        return "verdicts"
    texts = {f"{word}.{key}": text for word in TEXTS for key, text in (section.get(word) or {}).items()}
    wrong = [where for where, text in texts.items() if not isinstance(text, str)]
    origins = section.get(MADE) or {}
    wrong += [f"{MADE}.{name}" for name, one in origins.items() if not is_origin(one)]
    wrong += [f"{COLUMNS}.{name}" for name in section.get(COLUMNS) or {} if not are_descriptions(section, name)]
    for name, rows in tables_of(section).items():
        wrong += [f"{name}.{row}.{m}" for row, found in rows.items() for m, v in found.items() if not is_cell(v)]
    return wrong[0] if wrong else ""


def are_verdicts(found: Any) -> bool:
    """Return whether a value is a list of verdicts with outcome and text, or None as in older files."""
    if found is None:
        return True
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return False
    texts = all(isinstance(one.get(key), str) for one in found for key in ("table", "outcome", "text"))
    return texts and all(is_cell(value) for one in found for value in one.values())


def are_descriptions(section: Mapping[str, Any], table: str) -> bool:
    """Return whether the descriptions of a table's columns can be read."""
    stored = section[COLUMNS][table]
    try:
        return isinstance(stored, dict) and isinstance(metrics_of_table(section, table), tuple)
    except ValueError:
        return False


def is_origin(value: Any) -> bool:
    """Return whether a value is a table's origin, a mapping from names to numbers and texts."""
    return isinstance(value, dict) and all(is_cell(one) for one in value.values())


def origin_note(section: Mapping[str, Any], table: str) -> str:
    """Return how a table differs from its section: stale, or made from another checkpoint or seed.

    Returns the empty text if it does not differ.
    """
    one = (section.get(MADE) or {}).get(table) or {}
    if one.get("stale"):
        return f"stale: {one['stale']}"
    differs = [key for key in ("checkpoint", "epoch") if one.get(key) != section.get(key)]
    parts = [f"checkpoint {one.get('checkpoint')}, epoch {one.get('epoch')}"] if one and differs else []
    seeds = [part for part in str(one.get("settings", "")).split() if part.startswith("seed=")]
    parts += [part for part in seeds if part != f"seed={section.get('seed')}"]
    return ", ".join(parts)


def is_cell(value: Any) -> bool:
    """Return whether a value can be in a table: a text, a Boolean, None, or a number that fits in a float."""
    return value is None or isinstance(value, (str, bool, float)) or (is_number(value) and abs(value) < LARGEST)


def column_names(rows: Iterable[Row]) -> list[str]:
    """Return the columns of a table in order of appearance, without the spreads."""
    return list(dict.fromkeys(key for row in rows for key in row if not is_spread(key)))


def spread_of(row: Row, column: str) -> float | None:
    """Return the spread of a number, None if the row has none."""
    found = next((row[column + ending] for ending in SPREADS if column + ending in row), None)
    return found if is_number(found) else None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_cell(row: Row, column: str) -> tuple[str, str]:
    """Return a number of a row as text, and its spread as `± …` or the empty text; see `format_column`."""
    return format_column([row], Metric(column))[0]


def format_column(rows: Iterable[Row], metric: Metric) -> list[tuple[str, str]]:
    """Return each row's number as text, and its spread as `± …` or the empty text.

    Without a format of the metric's own, a number with a spread has as many decimals as two significant digits of the
    spread. Other numbers have four significant digits, or no decimals if the whole column consists of integers.
    """
    rows = list(rows)
    known = [row[metric.name] for row in rows if is_number(row.get(metric.name))]
    counts = all(float(value).is_integer() and abs(value) < 1e6 for value in known)
    return [format_value(row.get(metric.name), spread_of(row, metric.name), counts, metric.format) for row in rows]


def format_value(value: Any, spread: float | None, count: bool, form: str = "") -> tuple[str, str]:
    """Return a value and its spread as texts; a `count` has no decimals, `form` is the format of a metric."""
    if not is_number(value):
        return ("" if value is None else str(value)), ""
    if not math.isfinite(value):
        return ("–" if math.isnan(value) else "∞" if value > 0 else "-∞"), ""
    if form:
        return f"{value:{form}}", ("" if spread is None or not math.isfinite(spread) else f"± {spread:{form}}")
    if spread is None or not math.isfinite(spread) or spread <= 0:
        return (f"{value:.0f}" if count else format_significant(value)), ("± 0" if spread == 0 else "")
    decimals = max(1 - math.floor(math.log10(spread)), 0)
    if decimals > 7:
        return format_significant(value), f"± {spread:.1e}"
    return f"{value:.{decimals}f}", f"± {spread:.{decimals}f}"


def conditions_of(row: Row, metrics: Iterable[Metric]) -> tuple[tuple[str, Any], ...]:
    """Return how a row was measured: its texts, and the numbers that are conditions.

    Rows that differ in them, such as a bound and an estimate, are not compared.
    """
    known = {metric.name: metric for metric in metrics}
    found = []
    for name, value in row.items():
        metric = known.get(name) or Metric(name)
        if isinstance(value, str) or metric.condition:
            found.append((name, " or ".join(metric.alike) if value in metric.alike else value))
    return tuple(sorted(found))


def best_rows(rows: Rows, column: str, metrics: Iterable[Metric]) -> set[str]:
    """Return the names of the rows that are best in a column, one for each way of measuring that several rows share.

    Principal components that nearly copy the image are left out.
    """
    metrics = tuple(metrics)
    better = find_metric(metrics, column).better
    groups: dict[tuple[tuple[str, Any], ...], dict[str, float]] = {}
    for name, row in rows.items():
        value = row.get(column)
        if better and is_number(value) and not math.isnan(value) and competes(name, rows):
            groups.setdefault(conditions_of(row, metrics), {})[name] = value
    choose = min if better == "lower" else max
    tops = [(group, choose(group.values())) for group in groups.values() if len(group) > 1]
    return {name for group, top in tops for name, value in group.items() if value == top}
