"""Files of a run folder, which may be a stranger's: read within bounds, and nothing of the reader gets into them."""

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
"""Bytes of a file from which on its holes count, and how many times larger than what it takes of the disk it may be."""
MAX_DEPTH, MAX_INTERPOLATIONS = 50, 16
"""Levels of a config, and interpolations: `b: ${a}${a}`, `c: ${b}${b}` and so on double what is to be written."""

# ${model.code}, and the one variable that conf/ itself asks for. Others could tell a report what the reader's
# environment holds: ${oc.env:API_KEY}.
ALLOWED_INTERPOLATION = re.compile(r"\$\{(\.*[A-Za-z_][\w.\[\]]*|oc\.env:AECTL_DATA(,\s*\w*)?)\}", re.ASCII)
RESOLVER = re.compile(r"\$\{([A-Za-z_][\w.]*):[^${}]*\}", re.ASCII)


def read_config(path: Path, trust: Iterable[str] = ()) -> DictConfig:
    """Return a stored config; raises ConfigError if it cannot be read, or asks for more than itself.

    Resolvers, such as `${oc.env:HOME}`, are refused unless `trust` names them.
    """
    plain = read_plain_config(path)
    check_interpolations(plain, path, tuple(trust))
    return OmegaConf.create(plain)


def read_plain_config(path: Path) -> dict[Any, Any]:
    """Return what a YAML file holds, interpolations as they stand; raises ConfigError if it is no mapping of YAML."""
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
    """Return the texts that a YAML file lists; none if it cannot be read."""
    try:
        text = read_text(path, MAX_CONFIG_BYTES)
        check_yaml(text)
        found = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []


def check_yaml(text: str) -> None:
    """Raise ValueError for YAML that is larger than its text (`&a [*b, *b]`), nested without reason, or has tags.

    A tag makes bytes of a text, or a path, which is not seen where texts are looked through for paths.
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
    """Raise ConfigError for an interpolation in a plain config that is not one of the harmless ones or trusted."""
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
    """Yield every text in a plain config."""
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
    """Return the mapping in a JSON file; raises ConfigError if it cannot be read or is none."""
    try:
        found = restore_numbers(json.loads(read_text(path, MAX_JSON_BYTES)))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged: it holds no record of a run")
    return found


NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers: they are written as these texts, and read back as numbers."""


def to_json(content: Mapping[str, Any]) -> str:
    """Return a mapping as JSON that every reader accepts."""
    return json.dumps(replace_numbers(content), indent=2, allow_nan=False) + "\n"


def replace_numbers(value: Any) -> Any:
    """Return a value with texts in place of numbers that are NaN or infinite, at any depth."""
    if isinstance(value, Mapping):
        return {key: replace_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replace_numbers(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def restore_numbers(value: Any) -> Any:
    """Return a value with the numbers that `replace_numbers` has made texts of."""
    if isinstance(value, dict):
        return {key: restore_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restore_numbers(item) for item in value]
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def check_links(folder: Path, part: Path | None = None) -> None:
    """Raise ConfigError if a run's folder, or that part, holds a link out of it, or a pipe: writes would go elsewhere.

    `figures -> ~/.ssh` and `train.log -> ~/.bashrc` would have aectl write into the reader's own files.
    """
    home = folder.resolve()
    for place, folders, files in os.walk((part or folder).resolve()):
        for path in (Path(place, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) and not is_link_within(path, home):
                raise ConfigError(f"{path} is a link to {path.readlink()}: put there what is outside the run's folder")
            if not (stat.S_ISLNK(mode) or stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise ConfigError(f"{path} is neither a file nor a folder: remove it")


def is_link_within(link: Path, folder: Path) -> bool:
    """Return whether a link ends in a folder."""
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        # In a circle.
        return False


def read_text(path: Path, largest: int, errors: str = "strict") -> str:
    """Return the text of a file of at most so many bytes; raises OSError or ValueError, at once for a pipe."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content.decode("utf-8", errors)


class SparseFileError(ValueError):
    """A large file that takes hardly any disk: reading it would fill its holes with memory."""


def check_sparse(path: Path) -> None:
    """Raise HolesError for a file that has many times the bytes that it takes of the disk."""
    found = path.stat()
    taken = getattr(found, "st_blocks", math.inf) * 512
    if found.st_size > SPARSE_FROM_BYTES and MAX_SPARSE_RATIO * taken < found.st_size:
        raise SparseFileError(f"of its {found.st_size:,} bytes the disk has {taken:,}")


def file_digest(path: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a file; raises OSError or HolesError."""
    check_sparse(path)
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()[:16]
