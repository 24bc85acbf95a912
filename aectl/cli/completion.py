"""Tab completion: the script that a shell installs, and the words that it suggests."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from aectl.cli.hydra_main import launch_hydra
from aectl.config import ConfigError, conf_dir, list_options
from aectl.config.completion_values import list_choices
from aectl.config.overrides import LAUNCHERS, MULTIRUN, OPTIONAL, SWITCHES, VALUED, split_flags
from aectl.config.schema import CHOICES, LIST_CHOICES, SCHEMAS
from aectl.runs.run import iterate_runs

SAFE = re.compile(r"[\w./@%+,:=-]+")
"""Words without characters that are special to a shell."""
CHOICE = re.compile(r"\w+=\w+|[\w.]+\._target_=[\w.]+")
"""An override that chooses an option of a group, or a class of the user's own."""
RUN_KEYS = ("run", "resume", "init_from", "judge")
"""Keys whose value is a run."""


def answer(arguments: Sequence[str]) -> None:
    """Print the script to install (`-sc install=bash`), or completions of the line in $COMP_LINE (`-sc query=bash`)."""
    query = next((a for a in arguments if a.startswith("query=")), None)
    if query is None:
        shells = [a for a in arguments if a.startswith(("install=", "uninstall="))]
        launch_hydra("train", ["-sc", *shells], lambda config: None)
        return
    # Errors in a half-typed line would be printed into the middle of it.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception, SystemExit):
        suggest(os.environ.get("COMP_LINE", ""), query)


def suggest(line: str, query: str) -> None:
    """Print completions of the last word of a line; `query` names the shell."""
    program, *words = line.split() or ["aectl"]
    word = words.pop() if words and not line.endswith(" ") else ""
    separator = "\n" if query.endswith("fish") else " "
    if not words:
        found = filter_prefix((*SCHEMAS, "--help", "--version"), word)
    elif words[0] not in SCHEMAS:
        found = []
    elif word.startswith("-"):
        found = filter_prefix((*SWITCHES, *VALUED, *OPTIONAL, "--help"), word)
    elif word.partition("=")[0] in RUN_KEYS and "=" in word:
        key = word.partition("=")[0]
        # A shell inserts them unquoted: `$(…)` in the name of a folder would be run as a command.
        found = filter_prefix([f"{key}={run}" for run in ("latest", *iterate_runs()) if SAFE.fullmatch(str(run))], word)
    elif "=" in word and (values := complete_value(words[0], words[1:], word)):
        found = filter_prefix(values, word)
    else:
        if words[0] == "train" and any(flag in words for flag in MULTIRUN) and "=" not in word:
            # Hydra only knows their long names.
            print(separator.join(filter_prefix([f"{key}=" for key in LAUNCHERS], word)))
        return ask_hydra(words[0], program, [*words[1:], word], query)
    return print(separator.join(found))


def complete_value(command: str, words: Sequence[str], word: str) -> list[str]:
    """Return the completions of `key=…` from the choices of the key; empty if the key has none."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    key, _, value = word.partition("=")
    key = key.lstrip("+")
    if key in list_options():
        return []
    known: Sequence[str] = {**LIST_CHOICES, **CHOICES}.get(key, ())
    if not known:
        # Earlier words may change the keys that exist: model=gan model.loss=…
        groups = tuple(f"{group}{sign}" for group in list_options() for sign in "=.")
        chosen = [one for one in words if CHOICE.fullmatch(one) and one.startswith(groups)]
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            config = OmegaConf.to_container(compose(command, chosen))
        known = list_choices(key, cast("dict[str, Any]", config))
    # In a list, [codes,probes] or codes,probes, the last item is completed.
    head = value[: max(value.rfind(","), value.rfind("[")) + 1]
    return [f"{word.partition('=')[0]}={head}{one}" for one in known if one not in re.split(r"[\[,]", head)]


def ask_hydra(command: str, program: str, words: Sequence[str], query: str) -> None:
    """Let Hydra complete the last word, which is a group, an option, a key or a value."""
    try:
        flags, overrides = split_flags([word for word in words if word])
    except ConfigError:
        return
    # Hydra knows no commands and no flags after overrides, and composes several values only with the flag of a sweep.
    sweep = [flag for flag in flags if flag in MULTIRUN]
    os.environ["COMP_LINE"] = " ".join([program, *sweep, *overrides, *([] if words[-1] else [""])])
    launch_hydra(command, ["-sc", query], lambda config: None)


def filter_prefix(candidates: Iterable[str], word: str) -> list[str]:
    """Return the candidates that begin with `word`."""
    return [candidate for candidate in candidates if candidate.startswith(word)]
