"""TAB: the script that a shell installs, and the words that it may put in."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from aectl.cli.hydra_main import launch
from aectl.config import ConfigError, conf_dir, options
from aectl.config.completion_values import choices_of
from aectl.config.overrides import LAUNCHERS, MULTIRUN, OPTIONAL, SWITCHES, VALUED, split_flags
from aectl.config.schema import CHOICES, SCHEMAS
from aectl.runs.run import every

SAFE = re.compile(r"[\w./@%+,:=-]+")
"""A name that means nothing to a shell."""
CHOICE = re.compile(r"\w+=\w+|[\w.]+\._target_=[\w.]+")
"""A choice of one option of a group, or of a class of one's own."""
RUN_KEYS = ("run", "resume", "init_from")
"""Keys whose value is a run."""


def answer(arguments: Sequence[str]) -> None:
    """Print the shell's script (`-sc install=bash`), or what could come next (`-sc query=bash`, line in $COMP_LINE)."""
    query = next((a for a in arguments if a.startswith("query=")), None)
    if query is None:
        shells = [a for a in arguments if a.startswith(("install=", "uninstall="))]
        launch("train", ["-sc", *shells], lambda config: None)
        return
    # Half-typed lines are full of mistakes; what is said of them would land in the middle of the line.
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(Exception, SystemExit):
        suggest(os.environ.get("COMP_LINE", ""), query)


def suggest(line: str, query: str) -> None:
    """Print the words that could take the place of the last one of a line; `query` names the shell."""
    program, *words = line.split() or ["aectl"]
    word = words.pop() if words and not line.endswith(" ") else ""
    separator = "\n" if query.endswith("fish") else " "
    if not words:
        found = matching((*SCHEMAS, "--help", "--version"), word)
    elif words[0] not in SCHEMAS:
        found = []
    elif word.startswith("-"):
        found = matching((*SWITCHES, *VALUED, *OPTIONAL, "--help"), word)
    elif word.partition("=")[0] in RUN_KEYS and "=" in word:
        key = word.partition("=")[0]
        # A shell puts them in as they are: `$(…)` in a folder's name would be a command.
        found = matching([f"{key}={run}" for run in ("latest", *every()) if SAFE.fullmatch(str(run))], word)
    elif "=" in word and (values := values_after(words[0], words[1:], word)):
        found = matching(values, word)
    else:
        if words[0] == "train" and any(flag in words for flag in MULTIRUN) and "=" not in word:
            # Hydra has them by longer names.
            print(separator.join(matching([f"{key}=" for key in LAUNCHERS], word)))
        return ask_hydra(words[0], program, [*words[1:], word], query)
    return print(separator.join(found))


def values_after(command: str, words: Sequence[str], word: str) -> list[str]:
    """Return the words that the last one, `key=…`, may become by the choices of its key; none if it has none."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    key, _, value = word.partition("=")
    key = key.lstrip("+")
    if key in options():
        return []
    known: Sequence[str] = CHOICES.get(key, ())
    if not known:
        # Whatever is typed may change what a key belongs to: model=gan model.loss=…
        groups = tuple(f"{group}{sign}" for group in options() for sign in "=.")
        chosen = [one for one in words if CHOICE.fullmatch(one) and one.startswith(groups)]
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            config = OmegaConf.to_container(compose(command, chosen))
        known = choices_of(key, cast("dict[str, Any]", config))
    # Of a list, [codes,probes] or codes,probes, the last one is typed.
    head = value[: max(value.rfind(","), value.rfind("[")) + 1]
    return [f"{word.partition('=')[0]}={head}{one}" for one in known if one not in re.split(r"[\[,]", head)]


def ask_hydra(command: str, program: str, words: Sequence[str], query: str) -> None:
    """Let Hydra complete the last word: a group, an option, a key or a value."""
    try:
        flags, overrides = split_flags([word for word in words if word])
    except ConfigError:
        return
    # Hydra knows of no commands, and of no flags behind overrides; a sweep's values do not compose without its flag.
    sweep = [flag for flag in flags if flag in MULTIRUN]
    os.environ["COMP_LINE"] = " ".join([program, *sweep, *overrides, *([] if words[-1] else [""])])
    launch(command, ["-sc", query], lambda config: None)


def matching(candidates: Iterable[str], word: str) -> list[str]:
    """Return the candidates that begin with `word`."""
    return [candidate for candidate in candidates if candidate.startswith(word)]
