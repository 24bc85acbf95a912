"""Whether all contenders train equally well: their losses, beside what chance makes of the same training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean

from scipy.stats import t

LEVEL = 0.99
"""How surely chance alone stays below the bound."""


def apart(losses: Mapping[str, Sequence[float]], level: float = LEVEL) -> Iterator[tuple[str, float, float]]:
    """Yield who differs from the first contender by more than chance explains: name, difference, and the bound.

    `losses` has one loss for each seed, by contender. The bound is Student's t · s · √(1/n + 1/m), where s² is the
    variance over seeds, taken to be the same for all of them and hence estimated from all of them.
    """
    freedom = sum(len(found) - 1 for found in losses.values())
    squares = sum((loss - fmean(found)) ** 2 for found in losses.values() for loss in found)
    (_, first), *others = losses.items()
    for name, found in others:
        reach = float(t.ppf((1 + level) / 2, freedom)) * sqrt(squares / freedom * (1 / len(first) + 1 / len(found)))
        difference = fmean(found) - fmean(first)
        if abs(difference) > reach:
            yield name, difference, reach
