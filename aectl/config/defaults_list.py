"""Read the defaults list of a YAML in conf/, without composing a config, which takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf


def defaults_list(path: Path) -> list[Any]:
    """Return the entries of a YAML's defaults list: names of other options, and mappings from group to option."""
    return list(cast("DictConfig", OmegaConf.load(path)).get("defaults", []))


def chosen_options(entry: Mapping[Any, Any]) -> dict[str, str]:
    """Return the options by group of an entry, those after `override` included."""
    return {str(group).removeprefix("override ").removeprefix("/"): str(option) for group, option in entry.items()}
