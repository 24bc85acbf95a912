"""Declare a table of `aectl eval`: what it measures, which models it applies to, and what its columns mean.

Each module of this package that measures something ends with `EVALUATIONS`, a tuple of its tables. `registry` finds
them there: a new table needs no other edit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import get_args

from aectl.evaluation.context import Rows, Subject
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Classifies, Encodes, Energy, Model, Normalises, Reconstructs, Samples, Scores, Walks

LACKING: dict[type | UnionType, str] = {
    Reconstructs: "does not reconstruct images",
    Encodes: "makes no codes",
    Samples: "does not sample",
    Classifies: "does not classify",
    Walks: "has no Markov chain",
    Scores | Normalises: "has no likelihood",
    Reconstructs | Scores | Energy: "gives images no score: no reconstruction, likelihood or energy",
}
"""How messages say that a model lacks an ability, where its name does not say it well."""


@dataclass(frozen=True)
class Evaluation:
    """A table of `aectl eval`."""

    name: str
    title: str
    abilities: tuple[type | UnionType, ...]
    """The protocols of `aectl.models.base` that a model must have."""
    measure: Callable[[Subject], Rows]
    """Returns the table; raises Unmeasured, with the reason, where the data do not allow it."""
    metrics: tuple[Metric, ...]
    """Descriptions of the columns."""
    order: int
    """Where the table comes among the others; numbers need not be consecutive."""
    headline: Headline | None = None
    """The metric that decides whether the model is better than its baselines."""
    settings: tuple[str, ...] = ()
    """Keys of `aectl eval` that change the numbers, in addition to `seed`."""
    with_sampler: tuple[type, ...] = ()
    """The protocols that suffice if `sampler` names densities of codes."""

    def lacking(self, model: Model, sampler: Sequence[str] = ()) -> str:
        """Return which ability the model lacks, e.g. `does not sample`; the empty text if it lacks none."""
        lack = next((lack_of(ability) for ability in self.abilities if not isinstance(model, ability)), "")
        if not (lack and self.can_take_sampler(model)):
            return lack
        return "" if sampler else f"{lack}; sampler=mixture fits a density to its codes"

    def can_take_sampler(self, model: Model) -> bool:
        """Return whether a density of the model's codes gives the table a row."""
        return bool(self.with_sampler) and all(isinstance(model, ability) for ability in self.with_sampler)


def lack_of(ability: type | UnionType) -> str:
    """Return how to say that a model lacks an ability."""
    names = " or ".join(one.__name__ for one in get_args(ability) or (ability,))
    return LACKING.get(ability, f"lacks the ability {names} of aectl.models.base")
