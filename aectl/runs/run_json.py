"""What run.json may hold: whoever wrote it, what is read from it is of the kind that is counted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aectl.config import ConfigError

FORMAT = 1
"""Of run.json, as this version writes it."""

MAX_INTEGER = 2**63
"""Of whole numbers; with more digits than a float has room for, Python could not divide them."""

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
"""What entries are, where they are there and not null; `*` is each entry of a list or mapping."""

LISTS = ("earlier_data", "overrides", "resumed")


class NewerFormat(ConfigError):
    """A run that a later version of aectl wrote."""


def check_record(record: Mapping[str, Any], path: Path) -> None:
    """Raise ConfigError, naming the file and the entry, unless all is of its kind; NewerFormat for a later format."""
    check_format(record, FORMAT, path)
    for key, kinds in ENTRY_TYPES.items():
        outer, _, inner = key.partition(".")
        if not all(is_valid(value, kinds) for value in iterate_values(record.get(outer), outer, inner)):
            raise ConfigError(f"{path} is damaged: its '{outer}' is not what aectl writes there")


def check_format(content: Mapping[str, Any], known: int, path: Path) -> None:
    """Raise NewerFormat if a file's content says that it is of a later format than the one known."""
    found = content.get("format")
    if type(found) is int and known < found < MAX_INTEGER:
        raise NewerFormat(f"{path} comes from a newer aectl: its format is {found}, this aectl reads {known}")


def iterate_values(found: Any, outer: str, inner: str) -> Iterator[Any]:
    """Yield what stands at an entry, which fits nothing where a list or mapping is wanted and it is none."""
    if found is None or not inner:
        yield found
    elif not isinstance(found, list if outer in LISTS else dict):
        yield object()
    elif isinstance(found, list):
        yield from found
    else:
        yield from found.values() if inner == "*" else [found.get(inner)]


def is_valid(value: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a value is null or of one of the kinds, and if a number, one that can be computed with."""
    return value is None or (type(value) in kinds and not (type(value) is int and abs(value) >= MAX_INTEGER))
