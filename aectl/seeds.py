"""What runs that differ in the seed alone can tell: intervals of their mean, and whether two means differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SURE = 0.05
"""Below this probability a difference counts as significant."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean, the same at every call; None of fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import bootstrap

    found = bootstrap((values,), statistics.fmean, vectorized=False, method="percentile", rng=0).confidence_interval
    return float(found.low), float(found.high)


def p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return how probable a difference of means as large as that of a and b would be without one (Welch 1947).

    None where the values cannot tell: fewer than two of one kind, or all equal.
    """
    if min(len(a), len(b)) < 2 or 0 in (statistics.stdev(a), statistics.stdev(b)):
        return None
    from scipy.stats import ttest_ind

    return float(ttest_ind(a, b, equal_var=False).pvalue)
