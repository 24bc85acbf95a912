"""Checks of `aectl train` before it builds anything, and before a job of a sweep starts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from aectl.commands.train_resume import is_unsaved
from aectl.config import (
    ConfigError,
    check_has_target,
    check_no_settings,
    check_signature,
    check_trusted,
    recipe,
    to_plain,
)
from aectl.config.absolute_paths import make_data_paths_absolute, set_literal
from aectl.config.data_paths import check_paths, find_data_paths
from aectl.config.schema import check_ranges
from aectl.data.digests import describe_differences
from aectl.evaluation import references
from aectl.runs.loading import PARTS, drop_incomplete_root, trusted_modules
from aectl.runs.run import RECORD, Run, find_run
from aectl.runs.sweep_membership import PLAN


def check_config(config: DictConfig) -> None:
    """Raise ConfigError for ranges, names and types that cannot work; makes paths in the config absolute."""
    check_ranges(config)
    references.check(to_plain(config.get("reference") or {}))
    if config.resume:
        trust = trusted_modules(config)
        check_trusted(config, trust)
        check_stored_paths(config, Run(Path(config.resume)), trust)
        config.dataset = drop_incomplete_root(config.dataset)
    elif config.init_from:
        set_literal(config, "init_from", str(find_run(config.init_from).absolute()))
    make_data_paths_absolute(config)
    check_has_target(config, ("device", "dataset", "model", "optimizer"))
    filled = recipe.with_recipe(config)
    for group in ("device", "dataset", "model", *PARTS, "optimizer", "schedule"):
        check_signature(filled.get(group), group)
        check_no_settings(filled.get(group), group)


def check_stored_paths(config: DictConfig, run: Run, trust: list[str]) -> None:
    """Raise ConfigError if a resumed run would read data or another run that this user has not typed."""
    paths, record = find_data_paths(config.dataset, trust), run.record
    if config.init_from and config.init_from != "latest" and is_unsaved(run):
        named = (record.get("init_from") or {}).get("run") or config.init_from
        # A run that is missing is reported where its weights are loaded.
        with contextlib.suppress(ConfigError):
            paths["init_from"] = str(find_run(named).absolute())
    check_paths(paths, run.folder, record.get("own_paths"), trust)


def check_sweep_data(config: DictConfig, run: Run, data: Mapping[str, Any]) -> None:
    """Raise ConfigError if a job of a sweep has other data than an earlier job of the same `dataset`."""
    if not (run.folder.parent / PLAN).is_file():
        return
    for other in map(Run, sorted(path.parent for path in run.folder.parent.glob(f"*/{RECORD}"))):
        if other.folder.name == run.folder.name or not (
            what := describe_differences(other.record.get("data") or {}, data)
        ):
            continue
        if to_plain(other.config(trusted_modules(config)).get("dataset")) == to_plain(config.dataset):
            raise ConfigError(
                f"the data have changed since {other.folder.name} of this sweep was trained: {what}\n"
                "  its jobs would not be comparable: start a new sweep"
            )
