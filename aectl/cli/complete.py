"""TAB: the script that a shell installs, and the words that it may put in."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Sequence

from aectl.cli.launch import MULTIRUN, OPTIONAL, SWITCHES, VALUED, launch, split_flags
from aectl.config import ConfigError
from aectl.config.schema import SCHEMAS
from aectl.run import every

SAFE = re.compile(r"[\w./@%+,:=-]+")
"""A name that means nothing to a shell."""
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
    else:
        return ask_hydra(words[0], program, [*words[1:], word], query)
    return print(separator.join(found))


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
