"""Formats the statistics of a sweep for the terminal and report.html."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aectl.leaderboard.significance import p_value, t_interval
from aectl.metric import Metric

T_INTERVAL = Metric("95 % (t)", "Student's t interval of the mean over seeds")
P_VALUE = Metric("p", "probability of at least this difference from the best if the means were equal (Welch's test)")
MAX_ALIGNED_WIDTH = 10
"""Most characters of a number in a column with aligned decimals."""


def format_intervals(groups: Sequence[Sequence[float]]) -> list[str]:
    """Return the 95 % t intervals of means over seeds with the same number of decimals, a dash for a single seed."""
    found = [t_interval(values) for values in groups]
    ends = [end for pair in found if pair for end in pair]
    # Only the larger bound of each interval counts: a bound near 0 would give all of them too many decimals.
    texts = iter(align_numbers(ends, like=[max(pair, key=abs) for pair in found if pair]))
    return [f"{next(texts)} … {next(texts)}" if pair else "-" for pair in found]


def format_p_value(best: Sequence[float], values: Sequence[float]) -> str:
    """Return the p-value of Welch's test, a dash if there are too few seeds or no variance."""
    p = p_value(best, values)
    return "-" if p is None else f"{p:.2g}"


def format_number(value: float, digits: int = 5) -> str:
    """Return a number with `digits` significant digits, a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def align_numbers(values: Sequence[float], digits: int = 5, like: Sequence[float] | None = None) -> list[str]:
    """Return the numbers of a column with the same number of decimals.

    There are as many decimals as the values of `like` (default: `values`) need at most to show `digits` significant
    digits. If a number then has more than `MAX_ALIGNED_WIDTH` characters, each number has its own decimals.
    """
    needed = [format_number(value, digits) for value in (values if like is None else like)]
    decimals = max((len(text.partition(".")[2]) for text in needed), default=0)
    texts = ["-" if math.isnan(value) else f"{value:.{decimals}f}" for value in values]
    if any("e" in text for text in needed) or max(map(len, texts), default=0) > MAX_ALIGNED_WIDTH:
        return [format_number(value, digits) for value in values]
    return texts
