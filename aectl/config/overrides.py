"""The grammar of a command line: Hydra's flags, overrides `key=value`, and which of them a resume allows."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from itertools import zip_longest

from aectl.config.instantiate import ConfigError
from aectl.config.literal import unquote_override

MULTIRUN = ("-m", "--multirun")

# Keys that a sweep's launcher or sweeper has, and where.
LAUNCHERS = {
    "jobs": "hydra.launcher.jobs",
    "fail_fast": "hydra.launcher.fail_fast",
    "trials": "hydra.sweeper.trials",
    "storage": "hydra.sweeper.storage",
}

# Hydra's flags: those that stand alone, those that take a word, and those whose word may be left out.
SWITCHES = (*MULTIRUN, "-r", "--run", "--resolve", "--hydra-help")
VALUED = ("-p", "--package", "-cd", "--config-dir")
FLAG_CHOICES = {
    **dict.fromkeys(("-c", "--cfg"), ("job", "hydra", "all")),
    **dict.fromkeys(("-i", "--info"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
}
OPTIONAL = {"-c": "job", "--cfg": "job", "-i": "all", "--info": "all"}


RESUME_KEYS = ("epochs", "steps", "max_time", "patience", "trust", "data", "hydra.verbose")
RESUME_NODES = ("device.", "hydra.job.", "hydra.job_logging.", "hydra.hydra_logging.")
"""What may be typed beside resume=: it changes how long or where the run goes on, not what it is."""

TRUST: ContextVar[tuple[str, ...]] = ContextVar("TRUST", default=())
"""The modules and paths that the user trusts in a sweep that is resumed."""
IMPORTS_HERE: ContextVar[bool] = ContextVar("IMPORTS_HERE", default=True)
"""Whether modules of the working folder may be imported: false in a resumed sweep that may be a stranger's."""


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's flags, and the overrides; its parser refuses overrides on both sides of a flag.

    Raises ConfigError for flags that Hydra does not have, such as `--epochs 3`.
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
            raise ConfigError(f"{name} wants a word behind it")
    check_flags(flags)
    return flags, overrides


def check_flags(flags: Sequence[str]) -> None:
    """Raise ConfigError for a flag's word that Hydra would refuse with a page of help."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue=""):
        name, equals, value = flag.partition("=")
        if name in FLAG_CHOICES and (word := value if equals else following) not in FLAG_CHOICES[name]:
            raise ConfigError(f"{name} shows {', '.join(FLAG_CHOICES[name])}, not '{word}'")
        if equals and name in SWITCHES:
            raise ConfigError(f"{name} takes no '{value}'")


def may_change_on_resume(override: str) -> bool:
    """Return whether an override may stand beside resume=."""
    return override_key(override) in RESUME_KEYS or override_key(override).startswith(RESUME_NODES)


def list_items(text: str) -> list[str]:
    """Return the words in a value that is one or a list of them: `[a, b]`."""
    return [word.strip().strip("'\"") for word in text.strip("[]").split(",") if word.strip()]


def override_key(override: str) -> str:
    """Return the key of an override, without the signs before it."""
    return override.lstrip("+~").partition("=")[0]


def override_value(override: str) -> str:
    """Return the value of an override, without quotes around it."""
    return unquote_override(override.partition("=")[2])


class UnknownFlag(ConfigError):
    """A flag that Hydra does not have, such as `--epochs 3`; `rest` are the words after it."""

    def __init__(self, word: str, rest: Sequence[str]) -> None:
        super().__init__(f"no flag '{word}'")
        name, _, value = word.lstrip("-").partition("=")
        self.key = name.replace("-", "_")
        self.value = value or (rest[0] if rest and "=" not in rest[0] and not rest[0].startswith("-") else "")
