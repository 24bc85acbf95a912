"""What runs that differ in the seed alone can tell: intervals of their mean, and whether two means differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SURE = 0.05
"""Below this probability a difference counts as significant."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval of the mean at 95 %, mean ± t · s / √n with n - 1 degrees of freedom.

    None for fewer than two values.
    """
    if len(values) < 2:
        return None
    # The inverse of Student's distribution function; scipy.stats takes three times as long to import.
    from scipy.special import stdtrit

    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, 0.975)) * error
    return mean - half, mean + half


def p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return how probable a difference of means as large as that of a and b would be without one (Welch 1947).

    None where the values cannot tell: fewer than two of one kind, or all equal.
    """
    if min(len(a), len(b)) < 2 or 0 in (statistics.stdev(a), statistics.stdev(b)):
        return None
    from scipy.stats import ttest_ind

    return float(ttest_ind(a, b, equal_var=False).pvalue)
