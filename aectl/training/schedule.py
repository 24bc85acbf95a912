"""Learning-rate schedules as pure functions of the step, so that checkpoints need no schedule state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate


class Schedule:
    """Base class of schedules, with a linear warm-up over the fraction `warmup` of the steps.

    Raises ValueError unless 0 ≤ warmup ≤ 1.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is a fraction of the steps and must lie in [0, 1], not {warmup}")
        self.warmup = warmup

    def __call__(self, step: int, total: int) -> float:
        """Return the factor on the learning rate at `step` of `total`, counted from 0."""
        ramp = self.warmup * total
        return (step + 1) / ramp if step + 1 < ramp else self.after_warmup(step - ramp, total - ramp)

    def after_warmup(self, step: float, total: float) -> float:
        """Return the factor at step `step` of the `total` steps after the warm-up; both may be fractional."""
        raise NotImplementedError(f"{type(self).__name__} does not define after_warmup(step, total)")


class Constant(Schedule):
    """Constant learning rate."""

    def after_warmup(self, step: float, total: float) -> float:
        return 1.0


class Cosine(Schedule):
    """Cosine decay to the fraction `floor` of the optimizer's rate (Loshchilov & Hutter 2017).

    Raises ValueError unless warmup and floor are in [0, 1].
    """

    def __init__(self, warmup: float = 0.0, floor: float = 0.0) -> None:
        super().__init__(warmup)
        if not 0 <= floor <= 1:
            raise ValueError(f"floor is a fraction of the learning rate and must lie in [0, 1], not {floor}")
        self.floor = floor

    def after_warmup(self, step: float, total: float) -> float:
        share = min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


class Steps(Schedule):
    """Piecewise constant rate: `factors[i]` holds for the fraction lengths[i] / Σ lengths of the steps.

    Raises ValueError unless there are as many factors ≥ 0 as lengths > 0, and warmup is in [0, 1].
    """

    def __init__(self, factors: Sequence[float], lengths: Sequence[float], warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if not factors or len(factors) != len(lengths):
            raise ValueError(f"factors and lengths must have equal length, not {len(factors)} and {len(lengths)}")
        if min(factors) < 0 or min(lengths) <= 0:
            raise ValueError(f"factors must be at least 0 and lengths greater than 0, not {factors} and {lengths}")
        self.factors, self.ends = list(factors), list(accumulate(lengths))

    def after_warmup(self, step: float, total: float) -> float:
        # Multiplied out, since the rounding of a quotient could miss a boundary.
        place = step * self.ends[-1]
        index = sum(place >= end * total for end in self.ends)
        return self.factors[min(index, len(self.factors) - 1)]
