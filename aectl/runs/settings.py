"""Find the settings in which runs differ, and group runs that differ only in the seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar


class HasSettings(Protocol):
    """A run whose settings can be looked up."""

    def setting(self, key: str) -> str:
        """Return the value of a setting, an empty string if the run does not have it."""


R = TypeVar("R", bound=HasSettings)


def find_differing_keys(runs: Sequence[HasSettings], keys: Iterable[str]) -> list[str]:
    """Return the keys whose values differ between runs."""
    return [key for key in keys if len({run.setting(key) for run in runs}) > 1]


def group_over_seeds(runs: Iterable[R], varied: Iterable[str]) -> list[list[R]]:
    """Group runs whose `varied` settings are equal except for the seed; keeps the order of the runs."""
    others = [key for key in varied if key != "seed"]
    groups: dict[tuple[str, ...], list[R]] = {}
    for run in runs:
        groups.setdefault(tuple(run.setting(key) for key in others), []).append(run)
    return list(groups.values())
