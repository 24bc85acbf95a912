"""Check the entries of run.json, which may come from an untrusted source, before they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aectl.config import ConfigError

FORMAT = 1
"""Version of run.json that this aectl writes."""

MAX_INTEGER = 2**63
"""Whole numbers must be smaller: Python cannot divide integers that do not fit in a float."""

ENTRY_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "status": (str,),
    "error": (str,),
    "started": (str,),
    "ended": (str,),
    "command": (str,),
    "pid": (int,),
    "host": (str,),
    "seed": (int,),
    "epochs": (int,),
    "seconds": (int, float),
    "device.name": (str,),
    "device.model": (str,),
    "device.precision": (str,),
    "device.threads": (int,),
    "goal.epochs": (int,),
    "goal.objective": (str,),
    "goal.meaning": (str,),
    "goal.metric_settings": (dict,),
    "objective.name": (str,),
    "objective.value": (int, float),
    "objective.epoch": (int,),
    "git.commit": (str,),
    "alarms.*": (dict,),
    "init_from.*": (str,),
    "data.name": (str,),
    "data.mean": (int, float),
    **{f"data.{which}_images": (int,) for which in ("train", "valid", "test")},
    **{f"data.{which}_{what}": (str,) for which in ("train", "valid", "test") for what in ("digest", "labels")},
    "earlier_data.*": (dict,),
    "init_from.run": (str,),
    "init_from.weights": (str,),
    "overrides.*": (str,),
    "own_paths.*": (str,),
    "resumed.*": (str,),
    "choices.*": (str,),
    "chosen.*": (int, list),
    "versions.*": (str,),
}
"""Types of the entries that are present and not null; `*` stands for every item of a list or mapping."""

LISTS = ("earlier_data", "overrides", "resumed")


class NewerFormat(ConfigError):
    """The run was written by a later version of aectl."""


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError if an entry has the wrong type, and NewerFormat if a later aectl wrote the file."""
    check_format(record, FORMAT, path)
    for key, kinds in ENTRY_TYPES.items():
        outer, _, inner = key.partition(".")
        if not all(is_valid(value, kinds) for value in iterate_values(record.get(outer), outer, inner)):
            raise ConfigError(f"{path} is damaged: its '{outer}' is not what aectl writes there")


def check_format(content: Mapping[str, Any], known: int, path: Path) -> None:
    """Raise NewerFormat if the format number of a file is later than `known`."""
    found = content.get("format")
    if type(found) is int and known < found < MAX_INTEGER:
        raise NewerFormat(f"{path} comes from a newer aectl: its format is {found}, this aectl reads {known}")


def iterate_values(found: Any, outer: str, inner: str) -> Iterator[Any]:
    """Yield the values of an entry; yields an invalid object if a list or mapping is expected and missing."""
    if found is None or not inner:
        yield found
    elif not isinstance(found, list if outer in LISTS else dict):
        yield object()
    elif isinstance(found, list):
        yield from found
    else:
        yield from found.values() if inner == "*" else [found.get(inner)]


def is_valid(value: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a value is null or has one of the types; whole numbers must be below `MAX_INTEGER`."""
    return value is None or (type(value) in kinds and not (type(value) is int and abs(value) >= MAX_INTEGER))
