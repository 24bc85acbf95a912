"""From the words behind a command to a call of Hydra."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import hydra
from omegaconf import DictConfig

from aectl.config import ConfigError, conf_dir
from aectl.config.folder_names import claiming, removing_abandoned_sweep, run_name
from aectl.config.literal import keep_folders_literal, quoted
from aectl.config.overrides import LAUNCHERS, MULTIRUN, OPTIONAL
from aectl.config.schema import SCHEMAS
from aectl.config.user_yaml import guard
from aectl.runs.run import find

# How other keys begin that only a sweep has.
OF_SWEEPS = ("hydra/launcher", "hydra/sweeper", "hydra.launcher.", "hydra.sweeper.", "hydra.sweep.")

# Keys of eval and sample that name files, and may be several of them.
PATHS = ("run", "images")

# What the keys of other paths end in, and paths that Hydra reads as they stand.
PATH_ENDS = (".root", ".path", "_root", "_path", "init_from")
PLAIN_PATH = re.compile(r"[\w./@+-]*", re.ASCII)

# Keys whose value is a text, whatever it looks like.
TEXTS = (*PATHS, "init_from", "max_time", "name")
LIKE_A_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)|true|false", re.IGNORECASE)


def launch(name: str, arguments: Sequence[str], function: Callable[[DictConfig], float | None]) -> None:
    """Let Hydra compose the config `name` of conf/ by the arguments, and call the function with it."""
    guard()
    keep_folders_literal()
    sys.argv = ["aectl", *arguments]
    is_asked = any(word.partition("=")[0] in OPTIONAL for word in arguments)
    with claiming(not is_asked), removing_abandoned_sweep():
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)(function)()


def check_sweep_words(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Raise ConfigError, with the right command, for settings of a sweep without the flag -m that makes one."""
    is_asked = any(flag.partition("=")[0] in OPTIONAL for flag in flags)
    if is_asked or any(flag in MULTIRUN for flag in flags) or "hydra.mode=MULTIRUN" in overrides:
        return
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        if (key in (*LAUNCHERS, "sweep") or key.startswith(OF_SWEEPS)) and value != "null":
            again = shlex.join(["aectl", "train", *flags, "-m", *overrides])
            raise ConfigError(f"{word} is for sweeps: add -m\n  {again}")


def name_launchers_keys(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with `jobs=` and the like as keys of the launcher or sweeper, whichever it is."""
    split = [o.partition("=") for o in overrides]
    return [f"{LAUNCHERS[key]}={value}" if key in LAUNCHERS else key + sign + value for key, sign, value in split]


def resolve_init_from(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with the runs that `init_from` names as absolute folders.

    So all jobs of a sweep, whenever they begin, start from the same run: `latest` would soon be one of them. Raises
    ConfigError if there is no such run.
    """
    resolved = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if key.lstrip("+") == "init_from" and value not in ("", "null"):
            if set(value) & set("()[]{}"):
                value = re.sub(r"\blatest\b", lambda _: folder_word("latest"), value)
            else:
                value = ",".join(folder_word(one.strip().strip("'\"")) for one in value.split(","))
        resolved.append(f"{key}{equals}{value}")
    return resolved


def folder_word(name: str) -> str:
    """Return the absolute folder of a run in quotes, for Hydra's grammar."""
    return quoted(str(find(name).absolute()))


def admit_new_keys(overrides: Sequence[str]) -> list[str]:
    """Mark keys that Hydra should not look for in conf/: tags, and those below a `_target_` that the user names.

    So `model=custom model._target_=my_module.MyModel model.width=3` needs no `+` before `model.width`; the
    constructor's signature tells later whether it is right.
    """
    own = [o.lstrip("+").partition("._target_=")[0] for o in overrides if "._target_=" in o.partition("=")[0] + "="]
    opened = tuple(f"{node}." for node in ("tags", *own))
    return [f"++{o}" if o.startswith(opened) else o for o in overrides]


def quote_texts(overrides: Sequence[str]) -> list[str]:
    """Put quotes around texts that Hydra would take for something else.

    Such are paths with its signs, `run=A,B` being two runs and no sweep, and names like numbers: of `tags.version=007`
    or `run=1e3` it would keep 7 and 1000.0. Paths of other keys are known by being there.
    """
    words = []
    for override in overrides:
        key, equals, value = override.partition("=")
        is_bare = value[:1] not in ("'", '"')
        is_path = key in PATHS or (key.endswith(PATH_ENDS) and is_there(value))
        is_cut = is_bare and is_path and not PLAIN_PATH.fullmatch(value) and value != "null"
        is_text = key in TEXTS or key.lstrip("+").startswith("tags.")
        # Several tables, `only=codes,probes`, are no sweep either.
        is_list = is_bare and key == "only" and "," in value and value[0] not in "[$"
        special = is_cut or is_list or (is_text and LIKE_A_NUMBER.fullmatch(value) is not None)
        words.append(f"{key}{equals}{quoted(value)}" if special else override)
    return words


def is_there(path: str) -> bool:
    """Return whether there is a file or folder of this name."""
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def check_output_subdir(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a setting of Hydra that would put a run's config where no command finds it."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "hydra.output_subdir":
            raise ConfigError(f"hydra.output_subdir={value}: a run's config is in its .hydra, leave the key out")


def check_name(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a typed `name=` that no folder can have, before Hydra asks for the folder."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        # Several values, name=a,b, are a sweep's; each job looks at its own.
        if key == "name" and value != "null" and not set(value) & set(",("):
            run_name(value.strip("'\""), "")


def check_switches(command: str, overrides: Sequence[str]) -> None:
    """Raise ConfigError for a number other than 0 and 1 that OmegaConf would take for `true`."""
    switches = {one.name for one in fields(SCHEMAS[command]) if one.type == "bool"}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in switches and re.fullmatch(r"[-+]?\d+", value) and value not in ("0", "1"):
            raise ConfigError(f"{key}: '{value}' is not true or false")
