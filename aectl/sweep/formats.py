"""Statistics of a sweep as text, the same on the terminal and in report.html."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aectl.seeds import interval, p_value


def spread(values: Sequence[float]) -> str:
    """Return the 95 % t interval of the mean over seeds; a dash for one seed."""
    found = interval(values)
    return "-" if found is None else f"{number(found[0])} … {number(found[1])}"


def probability(best: Sequence[float], values: Sequence[float]) -> str:
    """Return how probable such a difference would be where there is none; a dash where seeds cannot tell."""
    p = p_value(best, values)
    return "-" if p is None else f"{p:.2g}"


def number(value: float) -> str:
    """Return a number in five significant digits, a dash for nan."""
    return "-" if math.isnan(value) else f"{value:.5g}"
