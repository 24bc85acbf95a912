"""Make the paths in a config absolute, so that the run works from any working folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from aectl.config.instantiate import iterate_mappings, to_plain

PATH_KEYS = ("path", "test_path", "root", "test_root")
"""Keys of data sets that hold paths."""


def make_data_paths_absolute(config: DictConfig) -> None:
    """Make relative paths in the config's data set absolute, based on the working folder.

    In a user's data set class the keys may mean something else, so only existing paths are changed.
    """
    for where, node in iterate_mappings(to_plain(config.dataset), "dataset"):
        for key in PATH_KEYS:
            if is_relative_path(node, key):
                set_literal(config, f"{where}.{key}", str(to_absolute(node[key])))


def is_relative_path(node: Mapping[str, Any], key: str) -> bool:
    """Return whether a key of a plain node has a relative path."""
    value = node.get(key)
    if not isinstance(value, str) or value in ("", "???") or Path(value).is_absolute():
        return False
    return str(node.get("_target_")).startswith("aectl.") or to_absolute(value).exists()


def to_absolute(path: str) -> Path:
    """Return the absolute path, with `~` expanded."""
    return Path(path).expanduser().absolute()


def set_literal(config: DictConfig, key: str, text: str) -> None:
    """Set a key to a literal text, in which `${` is not an interpolation."""
    OmegaConf.update(config, key, text.replace("${", "\\${"))


def store_paths(config: DictConfig, file: Path) -> None:
    """Write the absolute paths of data and `init_from` in `config` into the stored config `file`."""
    plain, stored = to_plain(config), OmegaConf.load(file)
    paths = {
        f"{where}.{key}": node.get(key)
        for where, node in iterate_mappings(plain["dataset"], "dataset")
        for key in PATH_KEYS
    }
    paths["init_from"] = plain.get("init_from")
    changed = False
    for key, value in paths.items():
        if isinstance(value, str) and is_changed(stored, key, value):
            set_literal(stored, key, value)  # type: ignore[arg-type]
            changed = True
    if changed:
        OmegaConf.save(stored, file)


def is_changed(stored: Any, key: str, value: str) -> bool:
    """Return whether a stored config has a different text at a key."""
    raw = OmegaConf.select(stored, key)
    return isinstance(raw, str) and raw != value
