"""Check the data paths in a stored config: they are read only if this user typed or trusted them."""

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
from aectl.config.quoting import quote_override
from aectl.config.untrusted_files import check_links
from aectl.config.user_signature import is_signed, sign


def find_data_paths(dataset: Any, trust: Iterable[str] = ()) -> dict[str, str]:
    """Return the absolute paths of the user's data in a data set's config, by key; trusted classes are skipped.

    Call it after the data set was built or `check_trusted` has imported what it names.
    """
    found = {}
    for where, node in iterate_mappings(to_plain(dataset), "dataset"):
        target = str(node.get("_target_"))
        if is_in_modules(target, trust):
            continue
        for key in PATH_KEYS:
            # A root inside another data set's config is not replaced by the user's data folder.
            is_fetched = key == "root" and reads_published_files(target)
            if not isinstance(node.get(key), str) or not node[key] or (is_fetched and where == "dataset"):
                continue
            if is_fetched or may_exist(to_absolute(node[key])):
                found[f"{where}.{key}"] = str(to_absolute(node[key]))
    return found


def may_exist(path: Path) -> bool:
    """Return whether a path may exist; a missing one is reported by its reader."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return True


def sign_paths(config: DictConfig) -> dict[str, str]:
    """Return the signatures of the paths that a run reads, data and `init_from`; empty without a user key."""
    paths = [
        *find_data_paths(config.dataset).values(),
        *([str(to_absolute(config.init_from))] if config.init_from else []),
    ]
    signatures = {path: sign("path", path) for path in paths}
    return {path: signature for path, signature in signatures.items() if signature}


def check_paths(
    paths: Mapping[str, str], folder: Path, signatures: Mapping[str, str] | None, trust: Iterable[str]
) -> None:
    """Raise ConfigError for a path outside the run's folder without this user's signature or `trust`."""
    trusted = [to_absolute(word) for word in trust if is_path(word)]
    for key, text in paths.items():
        if is_signed((signatures or {}).get(text), "path", text) or any(is_within(Path(text), one) for one in trusted):
            continue
        if is_within(Path(text), folder):
            # A folder of images may contain links to other folders.
            check_links(folder, Path(text))
        else:
            hint = f"if it may, add trust={quote_value(text)}"
            raise ConfigError(f"{key}: the stored config reads {text}, outside of its folder; {hint}")


def is_within(path: Path, folder: Path) -> bool:
    """Return whether a path is inside a folder after resolving links."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def quote_value(text: str) -> str:
    """Quote a text for Hydra's grammar and for a shell."""
    if re.fullmatch(r"[\w./@+:-]+", text):
        return text
    return shlex.quote(quote_override(text))
