"""Options of older versions: refuse typed ones with a replacement, and replace stored and renamed ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from aectl.config.instantiate import ConfigError

log = logging.getLogger("aectl")

RENAMED = {"density=gmm": "density=mixture"}
"""Overrides whose value has another name now."""
TOGETHER = ("together", "hydra.launcher.together")


def check_removed(words: Iterable[str]) -> None:
    """Raise ConfigError for an override that chooses `sweep=fused`, or its setting `together`."""
    for word in words:
        key, _, value = split_override(word)
        if key in TOGETHER:
            raise ConfigError(f"{word} was a setting of sweep=fused, which was removed: use sweep=local without it")
        if key in ("sweep", "hydra/launcher") and "fused" in value.strip("[]").replace(" ", "").split(","):
            raise ConfigError(f"{key}=fused was removed: use sweep=local, which trains the same jobs")


def replace_removed(words: Iterable[str]) -> list[str]:
    """Return the words of a stored sweep with `sweep=local` instead of `sweep=fused`."""
    replaced = []
    for word in words:
        key, equals, value = split_override(word)
        if key in TOGETHER:
            continue
        is_fused = key in ("sweep", "hydra/launcher") and value == "fused"
        replaced.append(f"{key}{equals}local" if is_fused else word)
    return replaced


def replace_renamed(words: Iterable[str]) -> list[str]:
    """Return the words with new names of renamed values; logs a line for each."""
    words = list(words)
    for word in words:
        if word in RENAMED:
            log.info("%s is called %s now", word, RENAMED[word])
    return [RENAMED.get(word, word) for word in words]


def split_override(word: str) -> tuple[str, str, str]:
    """Split an override into its key without a leading `+` or `~`, the `=`, and the value."""
    return word.lstrip("+~").partition("=")
