"""Parse the command line into Hydra's flags and overrides, and check which overrides a resume allows."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from itertools import zip_longest

from aectl.config.instantiate import ConfigError
from aectl.config.quoting import unquote_override

MULTIRUN = ("-m", "--multirun")

# Short names of the settings of a sweep's launcher and sweeper.
LAUNCHERS = {
    "jobs": "hydra.launcher.jobs",
    "fail_fast": "hydra.launcher.fail_fast",
    "trials": "hydra.sweeper.trials",
    "storage": "hydra.sweeper.storage",
}

# Hydra's flags: without a value, with a value, and with an optional value.
SWITCHES = (*MULTIRUN, "-r", "--run", "--resolve", "--hydra-help")
VALUED = ("-p", "--package", "-cd", "--config-dir")
FLAG_CHOICES = {
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(("-i", "--info"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
}
OPTIONAL = {"-c": "job", "--cfg": "job", "-i": "all", "--info": "all"}


RESUME_KEYS = ("epochs", "steps", "max_time", "patience", "trust", "data", "hydra.verbose")
RESUME_NODES = ("device.", "hydra.job.", "hydra.job_logging.", "hydra.hydra_logging.")
"""Keys allowed with resume=: they change how long and where the run trains, not what it is."""

TRUST: ContextVar[tuple[str, ...]] = ContextVar("TRUST", default=())
"""Modules and paths that the user trusts in a resumed sweep."""
IMPORTS_HERE: ContextVar[bool] = ContextVar("IMPORTS_HERE", default=True)
"""Whether modules in the working folder may be imported; false for an untrusted resumed sweep."""


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into Hydra's flags and overrides; Hydra's parser refuses overrides on both sides of a flag.

    Raises ConfigError for unknown flags such as `--epochs 3`.
    """
    flags, overrides = [], []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name, equals, _ = word.partition("=")
        if name in (*SWITCHES, *VALUED, *OPTIONAL):
            flags.append(word)
        else:
            raise UnknownFlag(word, words)
        if equals or name in SWITCHES:
            continue
        if words and "=" not in words[0] and not words[0].startswith("-"):
            flags.append(words.pop(0))
        elif name in OPTIONAL:
            flags.append(OPTIONAL[name])
        else:
            raise ConfigError(f"{name} needs a value after it")
    check_flags(flags)
    return flags, overrides


def check_flags(flags: Sequence[str]) -> None:
    """Raise ConfigError for an invalid value of a flag, for which Hydra would print its whole help."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue=""):
        name, equals, value = flag.partition("=")
        if name in FLAG_CHOICES and (word := value if equals else following) not in FLAG_CHOICES[name]:
            raise ConfigError(f"{name} shows {', '.join(FLAG_CHOICES[name])}, not '{word}'")
        if equals and name in SWITCHES:
            raise ConfigError(f"{name} takes no '{value}'")


def may_change_on_resume(override: str) -> bool:
    """Return whether an override is allowed with resume=."""
    return override_key(override) in RESUME_KEYS or override_key(override).startswith(RESUME_NODES)


def list_items(text: str) -> list[str]:
    """Return the items of a value such as `a` or `[a, b]`."""
    return [word.strip().strip("'\"") for word in text.strip("[]").split(",") if word.strip()]


def override_key(override: str) -> str:
    """Return the key of an override without a leading `+` or `~`."""
    return override.lstrip("+~").partition("=")[0]


def override_value(override: str) -> str:
    """Return the unquoted value of an override."""
    return unquote_override(override.partition("=")[2])


class UnknownFlag(ConfigError):
    """Unknown flag such as `--epochs 3`; `rest` are the following words."""

    def __init__(self, word: str, rest: Sequence[str]) -> None:
        super().__init__(f"no flag '{word}'")
        name, _, value = word.lstrip("-").partition("=")
        self.key = name.replace("-", "_")
        self.value = value or (rest[0] if rest and "=" not in rest[0] and not rest[0].startswith("-") else "")
