"""Confidence intervals and significance of means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SIGNIFICANCE_LEVEL = 0.05
"""p-value below which a difference counts as significant."""


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a mean, or None for fewer than two values.

    It is Student's interval, mean ± t · s / √n with n - 1 degrees of freedom.
    """
    if len(values) < 2:
        return None
    # Quantile function of Student's t; scipy.stats takes three times as long to import.
    from scipy.special import stdtrit

    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(stdtrit(len(values) - 1, 0.975)) * error
    return mean - half, mean + half


def p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Welch's t-test that two means are equal (Welch 1947).

    Returns None if a sample has fewer than two values, or only equal ones.
    """
    if min(len(a), len(b)) < 2 or 0 in (statistics.stdev(a), statistics.stdev(b)):
        return None
    from scipy.stats import ttest_ind

    return float(ttest_ind(a, b, equal_var=False).pvalue)
