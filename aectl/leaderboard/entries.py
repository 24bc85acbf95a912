"""The runs of a leaderboard: their evaluations, labels, and names made of the settings that differ."""

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
from aectl.runs.metrics_json import Rows, find_damage, is_number, metrics_of_table, tables_of
from aectl.runs.run import Run
from aectl.runs.settings import find_differing_keys
from aectl.runs.sweep_membership import find_sweep, job_number, overrides_by_key

IRRELEVANT_KEYS = ("device", "trust", "max_time", "hydra", "resume", "name")
"""Groups of settings that do not change what a run learns."""


@dataclass(frozen=True)
class Entry:
    """A run and its evaluation on one split, which is the `section` of metrics.json."""

    label: str
    """A job's number in its sweep, or another short label (see `make_labels`)."""
    folder: Path
    section: dict[str, Any]

    @cached_property
    def noun(self) -> str:
        """`job` for a run of a sweep, else `run`."""
        return "run" if find_sweep(self.folder) is None else "job"

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
        """The overrides on the command line of the run, by key."""
        return overrides_by_key(self.record.get("overrides") or [])

    @cached_property
    def choices(self) -> dict[str, str]:
        """The selected option of each config group."""
        return dict(self.record.get("choices") or {})

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.choices.get("dataset", "unknown data")

    @property
    def data(self) -> str:
        """The digest of the user's own images on which the run was evaluated; empty for published data sets."""
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
        """Return the value of a setting in this run's config, an empty string if there is none."""
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
        """Return the training noise with its parameters, e.g. `gaussian std=1.0`."""
        node = self.config.get("noise") or {}
        numbers = [f"{key}={value}" for key, value in node.items() if is_number(value)]
        return " ".join([self.choices.get("noise", "none"), *numbers])


def read_entries(
    folders: Iterable[Path], split: str, complete: Callable[[Run, dict[str, Any]], dict[str, Any]]
) -> list[Entry]:
    """Return the runs with their evaluations on a split; raises ConfigError if one has none.

    `complete` maps each run and its section of metrics.json to the section that the leaderboard shows.
    """
    folders, found = list(folders), []
    for label, folder in zip(make_labels(folders), folders, strict=True):
        section = Run(folder).metrics.get(split)
        if section is None:
            raise ConfigError(f"{folder} has no evaluation on split={split}")
        if wrong := find_damage(section):
            raise ConfigError(f"{folder / 'metrics.json'} is damaged: {split}.{wrong} is not what an evaluation writes")
        found.append(Entry(label, folder, complete(Run(folder), section)))
    return found


def make_labels(folders: Sequence[Path]) -> list[str]:
    """Return a short label for each run of a leaderboard.

    Jobs of one sweep have the numbers of their folders, as in the sweep's table. Other runs are numbered from 1. If
    there are several sweeps, or jobs and other runs, each sweep and each other run has a letter: `A0 A1 B0 C`.
    """
    sweeps = [find_sweep(folder) for folder in folders]
    numbers = ["" if sweep is None else str(job_number(folder)) for sweep, folder in zip(sweeps, folders, strict=True)]
    places = list(dict.fromkeys(sweep or folder for sweep, folder in zip(sweeps, folders, strict=True)))
    if len(places) > 1 and any(sweeps):
        numbers = [index_to_letters(places.index(s or f)) + n for s, f, n in zip(sweeps, folders, numbers, strict=True)]
    # Copied folders may have the same number.
    return numbers if all(numbers) and len(set(numbers)) == len(numbers) else list(map(str, range(1, len(folders) + 1)))


def index_to_letters(index: int) -> str:
    """Return A, …, Z, AA, AB, … for 0, 1, …"""
    return (index_to_letters(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def find_differing_settings(entries: Sequence[Entry]) -> list[str]:
    """Return the keys of the settings in which the runs differ, config groups first."""
    groups = dict.fromkeys(key for entry in entries for key in entry.choices)
    keys = dict.fromkeys(
        key for entry in entries for key in entry.typed if key.partition(".")[0] not in IRRELEVANT_KEYS
    )
    known = [*groups, *[key for key in keys if key not in groups], "checkpoint"]
    return find_differing_keys(entries, known)


def describe_settings(entry: Entry, keys: Iterable[str]) -> str:
    """Return some settings of a run in short form, e.g. `masking code=64 seed=1`."""
    return " ".join(part for key in keys if (part := describe_setting(entry, key)))


def describe_setting(entry: Entry, key: str) -> str:
    """Return a setting in short form: the option of a group, or the last part of the key and the value."""
    value = entry.setting(key)
    if key not in entry.choices:
        return f"{key.rpartition('.')[2]}={value}" if value else ""
    return f"no {key}" if value == "none" else value
