"""Paths of own data in a stored config: read only if this user has typed them, here or when the run was trained."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from aectl.config.absolute_paths import PATH_KEYS, to_absolute
from aectl.config.allowlist import is_in_modules, is_path, reads_published_files
from aectl.config.instantiate import ConfigError, iterate_mappings, to_plain
from aectl.config.literal import quote_override
from aectl.config.signature import is_signed, sign
from aectl.config.untrusted_files import check_links


def find_data_paths(dataset: Any, trust: Iterable[str] = ()) -> dict[str, str]:
    """Return the absolute paths of own data in the config of a data set, by key; not those of trusted classes.

    Call it after the data set was built or `check_trusted` has imported what it names.
    """
    found = {}
    for where, node in iterate_mappings(to_plain(dataset), "dataset"):
        target = str(node.get("_target_"))
        if is_in_modules(target, trust):
            continue
        for key in PATH_KEYS:
            # A root within another data set's config is not replaced by the user's folder of data.
            is_fetched = key == "root" and reads_published_files(target)
            if not isinstance(node.get(key), str) or not node[key] or (is_fetched and where == "dataset"):
                continue
            if is_fetched or may_exist(to_absolute(node[key])):
                found[f"{where}.{key}"] = str(to_absolute(node[key]))
    return found


def may_exist(path: Path) -> bool:
    """Return whether there may be a file or folder; of what is not there, whoever reads it says so."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return True


def sign_paths(config: DictConfig) -> dict[str, str]:
    """Return the paths that a run reads, of its data and its first weights, with signatures; none without a key."""
    paths = [
        *find_data_paths(config.dataset).values(),
        *([str(to_absolute(config.init_from))] if config.init_from else []),
    ]
    signatures = {path: sign("path", path) for path in paths}
    return {path: signature for path, signature in signatures.items() if signature}


def check_paths(
    paths: Mapping[str, str], folder: Path, signatures: Mapping[str, str] | None, trust: Iterable[str]
) -> None:
    """Raise ConfigError for a path outside a run's folder that this user has neither signed nor named in `trust`."""
    trusted = [to_absolute(word) for word in trust if is_path(word)]
    for key, text in paths.items():
        if is_signed((signatures or {}).get(text), "path", text) or any(is_within(Path(text), one) for one in trusted):
            continue
        if is_within(Path(text), folder):
            # A folder of images may hold links to others.
            check_links(folder, Path(text))
        else:
            hint = f"if it may, add trust={quote_value(text)}"
            raise ConfigError(f"{key}: the stored config reads {text}, outside of its folder; {hint}")


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a path leads into a folder, links followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def quote_value(text: str) -> str:
    """Return a text as a value in Hydra's grammar and for a shell."""
    if re.fullmatch(r"[\w./@+:-]+", text):
        return text
    return shlex.quote(quote_override(text))
