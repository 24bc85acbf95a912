"""Verdicts: whether a model is better than its baselines, in one sentence for each ability."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from aectl.metric import Metric
from aectl.runs.metrics_json import COPY, MODEL, Row, Rows, column_names, competes, is_model_row, is_number

MOST = 4
"""Maximum number of verdicts of an evaluation."""


def read_ci95(row: Row, metric: str) -> float:
    """Return half the width of a metric's 95 % confidence interval, 0 if the row has none."""
    found = row.get(f"{metric}_ci95")
    return found if is_number(found) else 0.0


def no_note(row: Row) -> str:
    """Return the empty text; the default of `Headline.note`."""
    return ""


@dataclass(frozen=True)
class Verdict:
    """A model compared with a baseline, as metrics.json stores it."""

    table: str
    metric: str
    ours: float
    baseline: str
    """The baseline's row."""
    theirs: float
    difference: float
    """ours - theirs"""
    ci95: float
    """Half the width of the difference's 95 % confidence interval, as if the two numbers were independent.

    They are measured on the same images, so that the true interval is usually narrower."""
    unit: str
    outcome: str
    """`better` or `worse`, `unclear` if the interval covers zero."""
    text: str
    """The verdict as a sentence."""


@dataclass(frozen=True)
class Headline:
    """The metric of a table that decides whether a model is better than its baselines."""

    ability: str
    """What is compared. Of several headlines with the same ability only the first is used."""
    metric: Metric
    """Of a metric whose name is a pattern (`auroc_*`), the last column counts."""
    baselines: tuple[tuple[str, ...], ...]
    """Patterns of row names, in groups. The model is compared with the best row of the first group that has rows."""
    rank: int
    """Verdicts are sorted by rank, and the first `MOST` are reported."""
    about: str = ""
    """Start of the sentence, by default the ability; `{}` stands for what `*` matches in the metric's name."""
    goal: str = ""
    """A row that shows the best possible value, such as training images in a table of samples."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What rows are called in the sentence, if not by their name."""
    ci95: Callable[[Row, str], float] = read_ci95
    note: Callable[[Row], str] = no_note
    """Returns how the model's number was measured, shown in brackets after it."""

    @property
    def unit_of_difference(self) -> str:
        """The unit of the difference of two numbers: of percentages it is points."""
        return "points" if self.metric.unit == "%" else self.metric.unit


def verdicts(tables: Mapping[str, Rows], headlines: Mapping[str, Headline]) -> list[dict[str, Any]]:
    """Return the verdicts of an evaluation in order of rank; tables and headlines are given by table name."""
    found: dict[str, Verdict] = {}
    for name, headline in sorted(headlines.items(), key=lambda item: item[1].rank):
        verdict = judge(name, tables.get(name, {}), headline)
        if verdict is not None:
            found.setdefault(headline.ability, verdict)
    return [asdict(verdict) for verdict in list(found.values())[:MOST]]


def judge(table: str, rows: Rows, headline: Headline) -> Verdict | None:
    """Return the verdict of one table; None if it lacks the model's number or a baseline's."""
    models = {name: row for name, row in rows.items() if is_model_row(name)}
    metric = next((m for m in reversed(column_names(models.values())) if fnmatchcase(m, headline.metric.name)), "")
    name = MODEL if MODEL in models else best_row(headline.metric, models, metric)
    rival, copy = competitor(headline, rows, metric)
    if not name or not rival or not is_number(ours := rows[name].get(metric)):
        return None
    theirs, unit = rows[rival][metric], headline.metric.unit
    difference = ours - theirs
    ci95 = math.hypot(headline.ci95(rows[name], metric), headline.ci95(rows[rival], metric))
    found = outcome(difference, ci95, headline.metric.better)
    begin = (headline.about or headline.ability).format(metric.removeprefix(headline.metric.name.rstrip("*")))
    how = ", ".join(filter(None, (name.removeprefix(MODEL).removeprefix(", "), headline.note(rows[name]))))
    decimals = decimals_of(ours, theirs, ci95)
    # The difference of the printed numbers, so that it agrees with them.
    shown = round(ours, decimals) - round(theirs, decimals) if math.isfinite(difference) else difference
    text = (
        f"{begin} {with_unit(rounded(ours, decimals), unit)}{f' ({how})' if how else ''}, "
        f"{headline.words.get(rival, rival)} {rounded(theirs, decimals)}: "
        f"{in_words(found, shown, ci95, decimals, headline.unit_of_difference)}"
    )
    if is_number(goal := rows.get(headline.goal, {}).get(metric)):
        text += f" ({headline.words.get(headline.goal, headline.goal)} {rounded(goal, decimals)})"
    if copy:
        text += f" ({copy} nearly copies the image: it keeps over {100 * (1 - COPY):.1f} % of the variance)"
    return Verdict(table, metric, ours, rival, theirs, difference, ci95, unit, found, text)


def competitor(headline: Headline, rows: Rows, metric: str) -> tuple[str, str]:
    """Return the baseline to compare with, and the one that was skipped because it nearly copies the image, if any."""
    copy = ""
    for patterns in headline.baselines:
        fits = {n: row for n, row in rows.items() if not is_model_row(n) and any(fnmatchcase(n, p) for p in patterns)}
        rivals = {name: row for name, row in fits.items() if competes(name, rows)}
        if best := best_row(headline.metric, rivals, metric):
            return best, copy
        copy = next(iter(fits), copy)
    return "", copy


def best_row(metric: Metric, rows: Rows, column: str) -> str:
    """Return the name of the row that is best in a column of a metric, the empty text if no row has the number."""
    sign = 1 if metric.better == "lower" else -1
    known = {name: sign * row[column] for name, row in rows.items() if is_number(row.get(column))}
    return min((name for name, value in known.items() if not math.isnan(value)), key=known.__getitem__, default="")


def outcome(difference: float, ci95: float, way: str) -> str:
    """Return `better` or `worse`, or `unclear` if the interval covers zero; NaN is worse."""
    if math.isnan(difference):
        return "worse"
    if abs(difference) <= ci95 or difference == 0:
        return "unclear"
    return "better" if (difference < 0) == (way == "lower") else "worse"


def decimals_of(ours: float, theirs: float, ci95: float) -> int:
    """Return the number of decimals in a sentence: two digits of the difference and one of each number.

    Digits smaller than the interval are left out. There is at least one decimal.
    """
    wanted = max(place_of(ours - theirs) + 1, place_of(ours), place_of(theirs))
    return min(max(min(wanted, place_of(ci95)) if ci95 > 0 else wanted, 1), 6)


def place_of(value: float) -> int:
    """Return the decimal of a number's first digit: 2 for 0.05, -1 for 50, 0 for zero, NaN and infinity."""
    return -math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def in_words(found: str, difference: float, ci95: float, decimals: int, unit: str) -> str:
    """Return an outcome with the difference: `better by 1.5 dB`, `no clear difference (0.1 ± 0.3 dB)`."""
    if found == "unclear":
        return (
            f"no clear difference ({with_unit(f'{rounded(difference, decimals)} ± {rounded(ci95, decimals)}', unit)})"
        )
    return found if math.isnan(difference) else f"{found} by {with_unit(rounded(abs(difference), decimals), unit)}"


def rounded(value: float, decimals: int) -> str:
    """Return a number with this number of decimals, without a minus sign before zero."""
    return f"{round(value, decimals) + 0.0 if math.isfinite(value) else value:.{decimals}f}"


def with_unit(text: str, unit: str) -> str:
    """Return a number with its unit."""
    return f"{text} {unit}".rstrip()
