"""One evaluated run as its folder tells it, and what it is called among others: by what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config import ConfigError
from aectl.measures import Rows, damage, is_number, tables_of
from aectl.run import Run
from aectl.sweep import settings

IDLE = ("device", "trust", "max_time", "hydra", "resume")
"""Settings that change how a run is computed and not what it is."""


@dataclass(frozen=True)
class Entry:
    """A run and its evaluation on one split: `section` is what metrics.json says of it."""

    number: int
    folder: Path
    section: dict[str, Any]

    @cached_property
    def record(self) -> dict[str, Any]:
        """The run's run.json."""
        return Run(self.folder).record

    @cached_property
    def config(self) -> DictConfig:
        """The run's config; empty if it cannot be read."""
        try:
            return Run(self.folder).config()
        except ConfigError:
            return OmegaConf.create({})

    @cached_property
    def typed(self) -> dict[str, str]:
        """What was typed when the run began, by key."""
        return settings(self.record.get("overrides") or [])

    @cached_property
    def choices(self) -> dict[str, str]:
        """The option chosen of each group."""
        return dict(self.record.get("choices") or {})

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.choices.get("dataset", "unknown data")

    @cached_property
    def rows(self) -> dict[str, Rows]:
        """The tables of the evaluation by name."""
        return tables_of(self.section)

    def setting(self, key: str) -> str:
        """Return the value of a setting in this run, typed or not; the empty text if the run has no such setting."""
        if key == "checkpoint":
            return str(self.section.get(key, ""))
        if self.choices.get(key):
            return self.choices[key]
        try:
            value = OmegaConf.select(self.config, key)
        except OmegaConfBaseException:
            value = None
        if value is None or OmegaConf.is_dict(value):
            return self.typed.get(key, "")
        return str(value).lower() if isinstance(value, bool) else str(value)

    def noise(self) -> str:
        """Return the noise that the run was trained under, with its numbers: `gaussian std=1.0`."""
        node = self.config.get("noise") or {}
        numbers = [f"{key}={value}" for key, value in node.items() if is_number(value)]
        return " ".join([self.choices.get("noise", "none"), *numbers])


def read(folders: Iterable[Path], split: str) -> list[Entry]:
    """Return the runs, numbered from 1, with their evaluations on a split; raises ConfigError for one without."""
    found = []
    for number, folder in enumerate(folders, 1):
        section = Run(folder).metrics.get(split)
        if section is None:
            raise ConfigError(f"{folder} has no evaluation on split={split}")
        if wrong := damage(section):
            raise ConfigError(f"{folder / 'metrics.json'} is damaged: {split}.{wrong} is not what an evaluation writes")
        found.append(Entry(number, folder, section))
    return found


def differing(entries: Sequence[Entry]) -> list[str]:
    """Return the settings that are not the same in all runs, options of groups first."""
    groups = dict.fromkeys(key for entry in entries for key in entry.choices)
    keys = dict.fromkeys(key for entry in entries for key in entry.typed if key.partition(".")[0] not in IDLE)
    known = [*groups, *[key for key in keys if key not in groups], "checkpoint"]
    return [key for key in known if len({entry.setting(key) for entry in entries}) > 1]


def named(entry: Entry, keys: Iterable[str]) -> str:
    """Return what tells a run from others: `masking code=64 seed=1`."""
    return " ".join(part for key in keys if (part := worded(entry, key)))


def worded(entry: Entry, key: str) -> str:
    """Return one setting in words: an option by its name, anything else with the last part of its key."""
    value = entry.setting(key)
    if key not in entry.choices:
        return f"{key.rpartition('.')[2]}={value}" if value else ""
    return f"no {key}" if value == "none" else value
