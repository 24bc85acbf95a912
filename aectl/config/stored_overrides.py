"""Check the overrides stored in a sweep's folder, which may come from an untrusted source.

They are parsed as Hydra parses them, and each is checked like a stored run's config: values of known keys and options
of aectl's conf/ are allowed, paths outside the sweep's folder are not, unless the user typed or trusted them.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from aectl.config.absolute_paths import PATH_KEYS, to_absolute
from aectl.config.allowlist import is_in_modules
from aectl.config.data_paths import check_paths, is_within, quote_value
from aectl.config.defaults_list import chosen_options, defaults_list
from aectl.config.instantiate import (
    ConfigError,
    check_trusted,
    conf_dir,
    find_other_modules,
    iterate_mappings,
    list_options,
)
from aectl.config.overrides import LAUNCHERS, MULTIRUN
from aectl.config.schema import SCHEMAS
from aectl.config.untrusted_files import iterate_texts
from aectl.system.machine import count_usable_cores

NOT_STORED = ("resume", "trust", "data")
"""Keys that only the user may type."""
SETTINGS = tuple(one.name for one in fields(SCHEMAS["train"]) if one.name not in NOT_STORED)
PLUGINS = {"hydra/launcher": ("local", "basic"), "hydra/sweeper": ("search", "basic")}
"""Launchers and sweepers that a stored sweep may choose, directly or by `sweep=`. All others must be typed.

Workers of a cluster import modules from the working folder, which may be untrusted."""
LAUNCHER_KEYS = {**{name: name for name in LAUNCHERS}, **{key: name for name, key in LAUNCHERS.items()}}
"""From short and full keys of launcher and sweeper settings to the short name."""
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)

MAX_PROCESSES = 16
"""Limit for a stored command, unless this machine has more cores."""
MAX_JOBS = 10_000
MAX_WORDS = 1000


class RefusedWord(Exception):
    """An override is not allowed in a sweep's folder; the message is a hint at what would allow it, or empty."""


def check_words(
    words: Sequence[str], folder: Path, trust: Iterable[str] = (), signatures: Mapping[str, str] | None = None
) -> None:
    """Raise ConfigError unless all stored overrides of a sweep are allowed.

    Modules and paths in `trust`, and paths with this user's signature, are also allowed.
    """
    if len(words) > MAX_WORDS:
        raise ConfigError(f"{folder} has a sweep of {len(words):,} words, of at most {MAX_WORDS:,}")
    jobs = 1.0
    for word in words:
        try:
            jobs *= check_word(word, folder, tuple(trust), signatures)
        except RefusedWord as refused:
            again = shlex.join(["aectl", "train", *words, f"hydra.sweep.dir={folder}"])
            hint = str(refused) or f"if you trust it, type it: {again}"
            raise ConfigError(f"{word}: a sweep's folder may not ask for that\n  {hint}") from None
    if jobs > MAX_JOBS:
        raise ConfigError(f"{folder} has a sweep of {jobs:,.0f} jobs, of at most {MAX_JOBS:,}")


def check_word(word: str, folder: Path, trust: tuple[str, ...], signatures: Mapping[str, str] | None) -> float:
    """Check one override and return its number of values; raises RefusedWord."""
    if word in MULTIRUN:
        return 1
    override = parse_word(word)
    key, root = override.key_or_group, override.key_or_group.partition(".")[0]
    if override.package is not None or word.startswith("-"):
        raise RefusedWord
    if key == "hydra.sweep.dir":
        # Replaced by the folder itself.
        return 1
    if key not in (*PLUGINS, *LAUNCHER_KEYS, *list_options()) and not (root in SETTINGS and KEY.fullmatch(key)):
        raise RefusedWord
    count, values = list_values(override)
    for value in values:
        if any("${" in text for text in iterate_texts(value)):
            raise RefusedWord
        check_value(key, value, folder, trust, signatures)
    return count


def parse_word(word: str) -> Override:
    """Parse a word as Hydra does; raises RefusedWord if it is not an override."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except (HydraException, RecursionError, ValueError):
        raise RefusedWord from None
    return override


def list_values(override: Override) -> tuple[float, list[Any]]:
    """Return the number of an override's values, and the listed ones; raises RefusedWord for a glob."""
    value: Any = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list), [to_plain_value(one) for one in value.list]
    if isinstance(value, RangeSweep):
        start, stop, step = (float(number or 0) for number in (value.start, value.stop, value.step))
        return max((stop - start) / step if step else math.inf, 1.0), []
    if isinstance(value, IntervalSweep):
        return 1, []
    if isinstance(value, Glob):
        raise RefusedWord
    return 1, [to_plain_value(value)]


def to_plain_value(value: Any) -> Any:
    """Return a parsed value with plain strings instead of the parser's quoted strings."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(to_plain_value(key)): to_plain_value(one) for key, one in value.items()}
    return [to_plain_value(one) for one in value] if isinstance(value, list) else value


def check_value(
    key: str, value: Any, folder: Path, trust: tuple[str, ...], signatures: Mapping[str, str] | None
) -> None:
    """Check one value of a key; raises RefusedWord."""
    if key in PLUGINS or (key in list_options() and not isinstance(value, Mapping)):
        names = [name for name in (value if isinstance(value, list) else [value]) if name is not None]
        known = PLUGINS.get(key) or list_options()[key]
        if not all(name in known for name in names):
            raise RefusedWord("" if key in PLUGINS else f"an option of {key} is one of {', '.join(known)}")
        if key == "sweep" and not all(runs_here(name) for name in names):
            raise RefusedWord
        return None
    if key in LAUNCHER_KEYS:
        return check_launcher_value(LAUNCHER_KEYS[key], value, folder)
    node = nest_value(key, value)
    if any("_args_" in part for _, part in iterate_mappings(node.get("dataset"), "dataset")):
        raise RefusedWord
    if key == "device.count" and type(value) is int and value > max_processes():
        raise RefusedWord(f"this machine has {count_usable_cores()} cores")
    try:
        check_trusted(node, trust)
        check_paths(find_paths(node, trust), folder, signatures, trust)
    except ConfigError as error:
        raise RefusedWord(str(error)) from None


def runs_here(option: str) -> bool:
    """Return whether an option of `sweep`, with those it builds on, chooses only from `PLUGINS`."""
    path = Path(conf_dir(), "sweep", f"{option}.yaml")
    for entry in defaults_list(path):
        if isinstance(entry, str):
            if entry != "_self_" and not runs_here(entry):
                return False
        elif any(name not in PLUGINS.get(group, (name,)) for group, name in chosen_options(entry).items()):
            return False
    return True


def check_launcher_value(key: str, value: Any, folder: Path) -> None:
    """Check a setting of the launcher or sweeper; raises RefusedWord."""
    if key == "storage":
        # A URL such as sqlite:////… is refused, although as a path it may be inside the working folder.
        is_file = isinstance(value, str) and "://" not in value and is_within(to_absolute(value), folder)
        if not (value is None or is_file):
            raise RefusedWord(f"to use that study, type it: aectl train -m resume=… storage={quote_value(str(value))}")
        return
    most = max_processes() if key == "jobs" else MAX_JOBS
    if isinstance(value, (int, float)) and not isinstance(value, bool) and not value <= most:
        raise RefusedWord(f"it is at most {most:,} unless it is typed: aectl train -m resume=… {key}={value}")


def max_processes() -> int:
    """Return the largest number of processes that a stored command may start."""
    return max(MAX_PROCESSES, count_usable_cores())


def nest_value(key: str, value: Any) -> dict[str, Any]:
    """Return the config that sets a dotted key to a value."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def find_paths(node: Mapping[str, Any], trust: tuple[str, ...]) -> dict[str, str]:
    """Return the absolute paths in a config: data, download folders, and `init_from`."""
    found = {}
    for where, part in iterate_mappings(node.get("dataset"), "dataset"):
        for key in PATH_KEYS:
            if isinstance(part.get(key), str) and not is_in_modules(str(part.get("_target_")), trust):
                found[f"{where}.{key}"] = str(to_absolute(part[key]))
    if node.get("init_from") is not None:
        found["init_from"] = str(to_absolute(str(node["init_from"])))
    return found


def iterate_nodes(words: Iterable[str]) -> Iterator[Any]:
    """Yield a small config for each value of each word that can be parsed."""
    for word in words:
        try:
            override = parse_word(word)
            _, values = list_values(override)
        except RefusedWord:
            continue
        yield from (nest_value(override.key_or_group, value) for value in values)


def iterate_paths(words: Iterable[str]) -> Iterator[str]:
    """Yield the absolute paths that words name."""
    for node in iterate_nodes(words):
        yield from find_paths(node, ()).values()


def find_own_modules(words: Iterable[str]) -> list[str]:
    """Return the modules other than aectl and torch that typed words name."""
    found: dict[str, None] = {}
    for node in iterate_nodes(words):
        found |= dict.fromkeys(find_other_modules(node))
    return list(found)
