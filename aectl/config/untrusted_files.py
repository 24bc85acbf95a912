"""Read files of a run folder, which may come from an untrusted source: limited in size, without leaking secrets."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config.allowlist import is_in_modules
from aectl.config.instantiate import ConfigError

MAX_CONFIG_BYTES, MAX_JSON_BYTES = 2**17, 2**26
"""Bytes. A config has some three thousand, and an evaluation's numbers some ten thousand."""
SPARSE_FROM_BYTES, MAX_SPARSE_RATIO = 2**26, 64
"""Size in bytes from which a file is checked for holes, and largest ratio of its size to its space on disk."""
MAX_DEPTH, MAX_INTERPOLATIONS = 50, 16
"""Nesting and interpolations of a config: each of `b: ${a}${a}`, `c: ${b}${b}`, … doubles the text."""

# ${model.code}, and the one variable that conf/ uses. Others, such as ${oc.env:API_KEY}, could write secrets of the
# reader's environment into a report.
ALLOWED_INTERPOLATION = re.compile(r"\$\{(\.*[A-Za-z_][\w.\[\]]*|oc\.env:AECTL_DATA(,\s*\w*)?)\}", re.ASCII)
RESOLVER = re.compile(r"\$\{([A-Za-z_][\w.]*):[^${}]*\}", re.ASCII)


def read_config(path: Path, trust: Iterable[str] = ()) -> DictConfig:
    """Read a stored config; raises ConfigError if it cannot be read or has a forbidden interpolation.

    Resolvers, such as `${oc.env:HOME}`, are refused unless `trust` names them.
    """
    plain = read_plain_config(path)
    check_interpolations(plain, path, tuple(trust))
    return OmegaConf.create(plain)


def read_plain_config(path: Path) -> dict[Any, Any]:
    """Read a YAML mapping without resolving interpolations; raises ConfigError if it is damaged."""
    try:
        text = read_text(path, MAX_CONFIG_BYTES)
        check_yaml(text)
        config = OmegaConf.create(text)
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path} is damaged: it holds no config")
    return cast("dict[Any, Any]", OmegaConf.to_container(config, resolve=False))


def read_yaml_list(path: Path) -> list[str]:
    """Return the strings in a YAML list; empty if the file cannot be read."""
    try:
        text = read_text(path, MAX_CONFIG_BYTES)
        check_yaml(text)
        found = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []


def check_yaml(text: str) -> None:
    """Raise ValueError for YAML with aliases, which can expand without limit, deep nesting, or tags.

    A tag can turn a string into bytes or a path, which the checks of paths would not see.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it repeats a part of itself (*{event.anchor}), which no config of aectl does")
        if getattr(event, "tag", None):
            raise ValueError(f"it has a value of kind {event.tag}, which no config of aectl has")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def check_interpolations(plain: Any, path: Path, trust: tuple[str, ...]) -> None:
    """Raise ConfigError for an interpolation that is neither in `ALLOWED_INTERPOLATION` nor trusted."""
    asking = [text for text in iterate_texts(plain) if "${" in text]
    if sum(text.count("${") for text in asking) > MAX_INTERPOLATIONS:
        raise ConfigError(f"{path} has more than {MAX_INTERPOLATIONS} interpolations")
    for text in asking:
        left = ALLOWED_INTERPOLATION.sub("", text)
        known = [match for match in RESOLVER.finditer(left) if is_in_modules(match[1], trust)]
        for match in known:
            left = left.replace(match[0], "")
        if "${" in left:
            found = RESOLVER.search(left)
            hint = f"; if you trust it, add trust={found[1]}" if found else ""
            raise ConfigError(f"{path} asks for {left[left.index('${') :][:60]}, which a stored config may not{hint}")


def iterate_texts(plain: Any) -> Iterator[str]:
    """Yield every string in a plain config, keys included."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            yield from iterate_texts(key)
            yield from iterate_texts(value)
    elif isinstance(plain, (list, tuple)):
        for value in plain:
            yield from iterate_texts(value)
    elif isinstance(plain, str):
        yield plain


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping; raises ConfigError if the file is missing or damaged."""
    try:
        found = restore_numbers(json.loads(read_text(path, MAX_JSON_BYTES)))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: it holds no record of a run")
    return found


NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no NaN and infinity: they are written as these strings and restored when read."""


def to_json(content: Mapping[str, Any]) -> str:
    """Return a mapping as standard JSON, which has no NaN or infinity."""
    return json.dumps(replace_numbers(content), indent=2, allow_nan=False) + "\n"


def replace_numbers(value: Any) -> Any:
    """Replace NaN and infinite numbers by strings, at any depth."""
    if isinstance(value, Mapping):
        return {key: replace_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def restore_numbers(value: Any) -> Any:
    """Undo `replace_numbers`."""
    if isinstance(value, dict):
        return {key: restore_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restore_numbers(item) for item in value]
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def check_links(folder: Path, part: Path | None = None) -> None:
    """Raise ConfigError if a run's folder, or `part` of it, contains a link that leaves it, or a pipe or device.

    With links such as `figures -> ~/.ssh` or `train.log -> ~/.bashrc`, aectl would write into the user's other files.
    """
    home = folder.resolve()
    for place, folders, files in os.walk((part or folder).resolve()):
        for path in (Path(place, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not is_link_within(path, home):
                raise ConfigError(
                    f"{path} is a link to {path.readlink()}, outside of the run's folder: replace it by a copy"
                )
            if not (stat.S_ISLNK(mode) or stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise ConfigError(f"{path} is neither a file nor a folder: remove it")


def is_link_within(link: Path, folder: Path) -> bool:
    """Return whether the target of a link is inside a folder."""
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        # The link is circular.
        return False


def read_text(path: Path, largest: int, errors: str = "strict") -> str:
    """Read a text file of at most `largest` bytes; raises OSError or ValueError, also for a pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content.decode("utf-8", errors)


class SparseFileError(ValueError):
    """A large file takes hardly any disk space: reading its holes would fill memory."""


def check_sparse(path: Path) -> None:
    """Raise SparseFileError for a file that is many times larger than its space on disk."""
    found = path.stat()
    taken = getattr(found, "st_blocks", math.inf) * 512
    if found.st_size > SPARSE_FROM_BYTES and MAX_SPARSE_RATIO * taken < found.st_size:
        raise SparseFileError(f"it has {found.st_size:,} bytes, but only {taken:,} on disk")


def file_digest(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file; raises OSError or SparseFileError."""
    check_sparse(path)
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()[:16]
