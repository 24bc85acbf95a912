"""One evaluated run as its folder tells it, and what it is called among others: by what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config import ConfigError
from aectl.metric import Metric
from aectl.runs.jobs import job_number, overrides_by_key, sweep_of
from aectl.runs.metrics_json import Rows, find_damage, is_number, metrics_of_table, tables_of
from aectl.runs.run import Run

IDLE = ("device", "trust", "max_time", "hydra", "resume")
"""Settings that change how a run is computed and not what it is."""


@dataclass(frozen=True)
class Entry:
    """A run and its evaluation on one split: `section` is what metrics.json says of it."""

    label: str
    """What the run is called by: a job's number in its sweep, see `labels`."""
    folder: Path
    section: dict[str, Any]

    @cached_property
    def noun(self) -> str:
        """What kind of thing the label is of: `job` of a sweep, or `run`."""
        return "run" if sweep_of(self.folder) is None else "job"

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
        return overrides_by_key(self.record.get("overrides") or [])

    @cached_property
    def choices(self) -> dict[str, str]:
        """The option chosen of each group."""
        return dict(self.record.get("choices") or {})

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.choices.get("dataset", "unknown data")

    @property
    def data(self) -> str:
        """What tells the user's own images that the run was measured on from others; empty for published sets."""
        if self.section.get("data") == "changed":
            return "changed since training"
        known, split = self.record.get("data") or {}, self.section.get("split")
        return " ".join(str(known[key]) for key in (f"{split}_digest", f"{split}_labels") if key in known)

    @cached_property
    def rows(self) -> dict[str, Rows]:
        """The tables of the evaluation by name."""
        return tables_of(self.section)

    @cached_property
    def metrics(self) -> dict[str, tuple[Metric, ...]]:
        """The descriptions of the columns by table."""
        return {name: metrics_of_table(self.section, name) for name in self.rows}

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


def read_entries(
    folders: Iterable[Path], split: str, complete: Callable[[Run, dict[str, Any]], dict[str, Any]]
) -> list[Entry]:
    """Return the runs with their evaluations on a split; raises ConfigError for one without.

    `complete` is called with each run and its section of metrics.json, and returns what the leaderboard shows.
    """
    folders, found = list(folders), []
    for label, folder in zip(labels(folders), folders, strict=True):
        section = Run(folder).metrics.get(split)
        if section is None:
            raise ConfigError(f"{folder} has no evaluation on split={split}")
        if wrong := find_damage(section):
            raise ConfigError(f"{folder / 'metrics.json'} is damaged: {split}.{wrong} is not what an evaluation writes")
        found.append(Entry(label, folder, complete(Run(folder), section)))
    return found


def labels(folders: Sequence[Path]) -> list[str]:
    """Return what each run is called by in a leaderboard.

    Jobs of one sweep have their numbers, as in the sweep's own table and in the names of their folders. Other runs are
    numbered from 1. Where both come together, or jobs of several sweeps, each sweep and each other run has a letter, so
    that no number is taken for a job's of another sweep: `A0 A1 B0 C`.
    """
    sweeps = [sweep_of(folder) for folder in folders]
    numbers = ["" if sweep is None else str(job_number(folder)) for sweep, folder in zip(sweeps, folders, strict=True)]
    places = list(dict.fromkeys(sweep or folder for sweep, folder in zip(sweeps, folders, strict=True)))
    if len(places) > 1 and any(sweeps):
        numbers = [letter(places.index(s or f)) + n for s, f, n in zip(sweeps, folders, numbers, strict=True)]
    # Two folders may begin with the same number if they were copied there.
    return numbers if all(numbers) and len(set(numbers)) == len(numbers) else list(map(str, range(1, len(folders) + 1)))


def letter(index: int) -> str:
    """Return A … Z, AA, AB, … for 0, 1, …"""
    return (letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


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
