"""The call of Hydra, and the checks and rewrites of overrides before it."""

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
from aectl.config.folder_names import allow_new_folders, check_run_name, remove_abandoned_sweep
from aectl.config.overrides import LAUNCHERS, MULTIRUN, OPTIONAL
from aectl.config.quoting import escape_hydra_folders, quote_override
from aectl.config.schema import SCHEMAS
from aectl.config.user_yaml import install_config_checks
from aectl.runs.run import find_run

SWEEP_PREFIXES = ("hydra/launcher", "hydra/sweeper", "hydra.launcher.", "hydra.sweeper.", "hydra.sweep.")
"""Prefixes of keys that only a sweep has."""

PATHS = ("run", "images", "judge")
"""Keys of eval and sample that hold one or several paths."""

LISTS = ("only", "sampler")
"""Keys of eval that hold one or several names."""

PATH_ENDS = (".root", ".path", "_root", "_path", "init_from")
"""Endings of other keys that hold a path."""
PLAIN_PATH = re.compile(r"[\w./@+-]*", re.ASCII)
"""Paths that Hydra's grammar reads unquoted."""

TEXTS = (*PATHS, "init_from", "max_time", "name")
"""Keys whose value is always a string."""
LIKE_A_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)|true|false", re.IGNORECASE)


def launch_hydra(name: str, arguments: Sequence[str], function: Callable[[DictConfig], float | None]) -> None:
    """Compose the config `name` of conf/ from the arguments and call `function` with it."""
    install_config_checks()
    escape_hydra_folders()
    sys.argv = ["aectl", *arguments]
    is_printed = any(word.partition("=")[0] in OPTIONAL for word in arguments)
    with allow_new_folders(not is_printed), remove_abandoned_sweep():
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)(function)()


def check_sweep_keys(flags: Sequence[str], overrides: Sequence[str]) -> None:
    """Raise ConfigError, with the corrected command, for settings of a sweep without the flag -m."""
    is_printed = any(flag.partition("=")[0] in OPTIONAL for flag in flags)
    if is_printed or any(flag in MULTIRUN for flag in flags) or "hydra.mode=MULTIRUN" in overrides:
        return
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        if (key in (*LAUNCHERS, "sweep") or key.startswith(SWEEP_PREFIXES)) and value != "null":
            again = shlex.join(["aectl", "train", *flags, "-m", *overrides])
            raise ConfigError(f"{word} is for sweeps: add -m\n  {again}")


def expand_short_keys(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with short keys such as `jobs=` replaced by the keys of the launcher or sweeper."""
    split = [o.partition("=") for o in overrides]
    return [f"{LAUNCHERS[key]}={value}" if key in LAUNCHERS else key + sign + value for key, sign, value in split]


def resolve_init_from(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with the runs named by `init_from` as absolute folders.

    All jobs of a sweep then start from the same run; `latest` would become one of the jobs. Raises ConfigError if there
    is no such run.
    """
    resolved = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if key.lstrip("+") == "init_from" and value not in ("", "null"):
            if set(value) & set("()[]{}"):
                value = re.sub(r"\blatest\b", lambda _: quote_run_folder("latest"), value)
            else:
                value = ",".join(quote_run_folder(one.strip().strip("'\"")) for one in value.split(","))
        resolved.append(f"{key}{equals}{value}")
    return resolved


def quote_run_folder(name: str) -> str:
    """Return the absolute folder of a run, quoted for Hydra's grammar."""
    return quote_override(str(find_run(name).absolute()))


def admit_new_keys(overrides: Sequence[str]) -> list[str]:
    """Mark keys that are not in conf/ as new: tags, and keys below a `_target_` that the user sets.

    `model=custom model._target_=my_module.MyModel model.width=3` then needs no `+` before `model.width`, which is
    checked later against the constructor's signature.
    """
    own = [o.lstrip("+").partition("._target_=")[0] for o in overrides if "._target_=" in o.partition("=")[0] + "="]
    opened = tuple(f"{node}." for node in ("tags", *own))
    return [f"++{o}" if o.startswith(opened) else o for o in overrides]


def quote_texts(overrides: Sequence[str]) -> list[str]:
    """Quote strings that Hydra's grammar would parse as something else.

    These are paths with special characters (`run=A,B` is two runs, not a sweep) and strings that look like numbers:
    `tags.version=007` would become 7. For keys other than `PATHS`, a value is a path if it exists.
    """
    words = []
    for override in overrides:
        key, equals, value = override.partition("=")
        is_bare = value[:1] not in ("'", '"')
        is_path = key in PATHS or (key.endswith(PATH_ENDS) and path_exists(value))
        is_cut = is_bare and is_path and not PLAIN_PATH.fullmatch(value) and value != "null"
        is_text = key in TEXTS or key.lstrip("+").startswith("tags.")
        # A list of names, `only=codes,probes`, is not a sweep either.
        is_list = is_bare and key in LISTS and "," in value and value[0] not in "[$"
        special = is_cut or is_list or (is_text and LIKE_A_NUMBER.fullmatch(value) is not None)
        words.append(f"{key}{equals}{quote_override(value)}" if special else override)
    return words


def path_exists(path: str) -> bool:
    """Return whether a path exists; False if it is not a valid path."""
    try:
        return bool(path) and Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def check_output_subdir(overrides: Sequence[str]) -> None:
    """Raise ConfigError if Hydra would write a run's config where no command finds it."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "hydra.output_subdir":
            raise ConfigError(f"hydra.output_subdir={value}: a run's config is in its .hydra folder, remove the key")


def check_name(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a typed `name=` that is no valid folder name, before Hydra creates the folder."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        # A sweep, name=a,b: each job checks its own value.
        if key == "name" and value != "null" and not set(value) & set(",("):
            check_run_name(value.strip("'\""), "")


def check_booleans(command: str, overrides: Sequence[str]) -> None:
    """Raise ConfigError for a number other than 0 and 1, which OmegaConf would convert to true."""
    switches = {one.name for one in fields(SCHEMAS[command]) if one.type == "bool"}
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in switches and re.fullmatch(r"[-+]?\d+", value) and value not in ("0", "1"):
            raise ConfigError(f"{key}: '{value}' is not true or false")
