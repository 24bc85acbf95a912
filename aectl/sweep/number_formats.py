"""Statistics of a sweep as text, the same on the terminal and in report.html."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aectl.leaderboard.significance import p_value, t_interval
from aectl.metric import Metric

T_INTERVAL = Metric("95 % (t)", "Student's t interval of the mean over seeds")
P_VALUE = Metric("p", "how probable a difference as large from the best would be without one (Welch's test)")
LONGEST = 10
"""Characters of a number in a column whose decimals are aligned."""


def intervals(groups: Sequence[Sequence[float]]) -> list[str]:
    """Return the 95 % t intervals of means over seeds with the same decimals; a dash for one seed."""
    found = [t_interval(values) for values in groups]
    ends = [end for pair in found if pair for end in pair]
    # A bound near 0 would ask for more decimals than the others need.
    texts = iter(aligned(ends, like=[max(pair, key=abs) for pair in found if pair]))
    return [f"{next(texts)} … {next(texts)}" if pair else "-" for pair in found]


def probability(best: Sequence[float], values: Sequence[float]) -> str:
    """Return how probable such a difference would be where there is none; a dash where seeds cannot tell."""
    p = p_value(best, values)
    return "-" if p is None else f"{p:.2g}"


def number(value: float, digits: int = 5) -> str:
    """Return a number in significant digits, a dash for nan."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def aligned(values: Sequence[float], digits: int = 5, like: Sequence[float] | None = None) -> list[str]:
    """Return the numbers of a column with the same decimals, as many as one of them needs for its significant digits.

    The decimals are those that `like` needs, by default the values. Where that takes more than `LONGEST` characters,
    each number has its own.
    """
    needed = [number(value, digits) for value in (values if like is None else like)]
    decimals = max((len(text.partition(".")[2]) for text in needed), default=0)
    texts = ["-" if math.isnan(value) else f"{value:.{decimals}f}" for value in values]
    if any("e" in text for text in needed) or max(map(len, texts), default=0) > LONGEST:
        return [number(value, digits) for value in values]
    return texts
