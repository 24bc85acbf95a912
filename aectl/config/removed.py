"""Options of older versions: refuse typed ones with a replacement, and replace stored ones."""

from __future__ import annotations

from collections.abc import Iterable

from aectl.config.instantiate import ConfigError

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


def split_override(word: str) -> tuple[str, str, str]:
    """Split an override into its key without a leading `+` or `~`, the `=`, and the value."""
    return word.lstrip("+~").partition("=")
