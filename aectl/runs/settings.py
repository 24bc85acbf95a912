"""In which settings runs differ, and which runs differ in the seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class HasSettings(Protocol):
    """A run whose settings can be looked up."""

    def setting(self, key: str) -> str:
        """Return the value of a setting, the empty text if the run does not have it."""


R = TypeVar("R", bound=HasSettings)


def find_differing_keys(runs: Sequence[HasSettings], keys: Iterable[str]) -> list[str]:
    """Return those of `keys` whose values are not the same in all runs."""
    return [key for key in keys if len({run.setting(key) for run in runs}) > 1]


def group_over_seeds(runs: Iterable[R], varied: Iterable[str]) -> list[list[R]]:
    """Return the runs in groups with the same values of all `varied` keys except the seed, in the order given."""
    others = [key for key in varied if key != "seed"]
    groups: dict[tuple[str, ...], list[R]] = {}
    for run in runs:
        groups.setdefault(tuple(run.setting(key) for key in others), []).append(run)
    return list(groups.values())
