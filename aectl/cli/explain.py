"""From an exception to the line or two that a user can act on, and the exit code."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config import conf_dir, options
from aectl.durable import account, is_full

BAD_INPUT, UNEXPECTED = 2, 1
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def explain(error: Exception, name: str, overrides: Sequence[str]) -> tuple[str, int]:
    """Return the message for an exception and the exit code: 2 for what the user can mend, 1 for what is unexpected.

    `name` is the config that was composed, `overrides` are the ones that were typed.
    """
    system = next((e for e in (error, error.__cause__) if isinstance(e, OSError)), None)
    if isinstance(error, HydraException):
        return explain_composition(error, name, overrides), BAD_INPUT
    if isinstance(error, OmegaConfBaseException):
        return with_key(error), BAD_INPUT
    if is_ours(error):
        return str(error), BAD_INPUT
    where = system.filename or output_folder(system) if system is not None else None
    if system is not None and isinstance(error, (OSError, ValueError)) and (where or is_full(system)):
        hint = "\n  make room there and type the command again" if is_full(system) else ""
        return account(system, where or "the output folder") + hint, UNEXPECTED
    first = (str(error).splitlines() or [""])[0]
    if OUT_OF_MEMORY.search(str(error)) or isinstance(error, MemoryError):
        return f"out of memory: {first}\n  a smaller batch_size or model needs less", BAD_INPUT
    if is_composition(error):
        return uncomposed(first, overrides), BAD_INPUT
    return f"{type(error).__name__}: {first}\n  AECTL_DEBUG=1 shows the traceback", UNEXPECTED


def output_folder(error: OSError) -> str | None:
    """Return the folder that Hydra could not write to, whose own errors do not tell; None for other errors."""
    found = [frame.f_locals.get("output_dir") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((str(path) for path in reversed(found) if path), None)


def is_ours(error: Exception) -> bool:
    """Return whether an exception was written for the user: a class of ours, or a ValueError that our code raised."""
    if type(error).__module__.partition(".")[0] == "aectl":
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    where = frames[-1].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and where.partition(".")[0] == "aectl"


def is_composition(error: Exception) -> bool:
    """Return whether an exception was raised where Hydra reads and merges settings, before any command began."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "hydra._internal.config_loader_impl" in frames


def uncomposed(first: str, overrides: Sequence[str]) -> str:
    """Return what is wrong with settings that Hydra stumbles over without saying at which: most likely an option."""
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if (known := options().get(key)) and value not in known:
            return f"no {key} called '{value}'\n  there are: {', '.join(known)}"
    return f"cannot read the settings: {first}"


def explain_composition(error: HydraException, name: str, overrides: Sequence[str]) -> str:
    """Return what is wrong with a command line that Hydra could not compose."""
    text, cause = str(error), error.__cause__
    if isinstance(error, OverrideParseException):
        return unreadable(text, error.override, overrides)
    if isinstance(error, MissingConfigException):
        return missing_option(text)
    if match := re.search(r"Ambiguous value for argument '(.+)'|Sweep parameters '(.+)' requires", text):
        sweep = match[1] or match[2]
        return f"{sweep} gives several values: add -m to train one run for each\n  aectl train -m {sweep}"
    if match := re.search(r"Could not override '([^'@]+)'\.\s+(?:To append|No match)", text):
        return unknown_key(match[1], name, overrides)
    if match := re.search(r"Multiple values for (\S+)\. ", text):
        return f"{match[1]} has a value already: write {match[1]}=… without the +"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"{match[1]} has a value already: write {match[1]}=… without the +"
    if isinstance(cause, OmegaConfBaseException):
        return with_key(cause)
    first, *others = (text or str(cause)).splitlines()
    if first.endswith("raised while composing config:") and others:
        return f"{first.partition(': ')[0]}: {others[0]}"
    return f"{first}\n  {str(cause).splitlines()[0]}" if cause is not None and str(cause) not in first else first


def with_key(error: OmegaConfBaseException) -> str:
    """Return what a value is and what it should be, behind its key."""
    first = (error.msg or str(error)).splitlines()[0]
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", first):
        first = f"'{match[1]}' is not {TYPES.get(match[2], match[2])}"
    return f"{error.full_key}: {first}" if error.full_key else first


def unreadable(text: str, word: str, overrides: Sequence[str]) -> str:
    """Return what is wrong with a word that does not read as key=value."""
    for bare in overrides:
        if "=" not in bare and not bare.startswith("~"):
            groups = [group for group, names in options().items() if bare in names]
            return f"'{bare}' is not key=value" + (f", did you mean {groups[0]}={bare}?" if groups else "")
    key, _, value = word.partition("=")
    lines = [line for line in text.splitlines() if line.strip(" ^~") and "See https" not in line]
    detail = (lines or [""])[-1].partition(" expecting")[0]
    return f"cannot read {word}: {detail}\n  quote what has brackets or signs: \"{key}='{value}'\""


def missing_option(text: str) -> str:
    """Return which option of a group there is not, what comes near it, and all there are."""
    match = re.search(r"Could not (?:find|load) '(.+)/([^/']*)'", text)
    if match is None:
        return text.splitlines()[0]
    group, option = match.groups()
    known = re.findall(r"^\t(\S+)$", text.partition("Config search path")[0], re.MULTILINE) or options().get(group, [])
    near = difflib.get_close_matches(option, known, 1)
    first = f"no {group} called '{option}'" + (f", did you mean '{near[0]}'?" if near else "")
    if group in ("hydra/launcher", "hydra/sweeper"):
        first += f"; it may need the package hydra-{option.replace('_', '-')}-{group.partition('/')[2]}"
    return f"{first}\n  there are: {', '.join(known)}" if known else first


def unknown_key(key: str, name: str, overrides: Sequence[str]) -> str:
    """Return that there is no such key, and the nearest one that there is."""
    config = reference_config(name, overrides)
    if config is None or key.startswith("hydra."):
        return f"no key '{key}'\n  aectl {name} --cfg hydra shows Hydra's own"
    keys = [k for k in all_keys(OmegaConf.to_container(config)) if not k.startswith("hydra.")]
    if key in keys:
        return f"no key '{key}': another word on the line has taken it away"
    parent, _, leaf = key.rpartition(".")
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    near = [k for k in keys if k.rpartition(".")[2] == leaf][:3]
    near = near or difflib.get_close_matches(key, siblings, 1) or difflib.get_close_matches(key, keys, 1)
    if near and not key.startswith(f"{near[0]}."):
        return f"no key '{key}', did you mean {' or '.join(repr(k) for k in near)}?"
    if siblings:
        return f"no key '{key}'\n  there are: {', '.join(siblings)}"
    choice = OmegaConf.select(config, f"hydra.runtime.choices.{parent}")
    if choice is not None:
        others = [one for one in options().get(parent, []) if one != choice]
        return f"no key '{key}': {parent}={choice} has none\n  other options: {', '.join(others)}"
    return f"no key '{key}'\n  aectl {name} --help lists the keys"


def reference_config(name: str, overrides: Sequence[str]) -> DictConfig | None:
    """Return a config to look for keys in: with the options that were typed if that composes, else the default one."""
    from hydra import compose, initialize_config_dir

    groups = [o for o in overrides if re.fullmatch(r"\w+=\w+", o) and o.partition("=")[0] in options()]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        for chosen in (groups, []):
            try:
                return compose(name, chosen, return_hydra_config=True)
            except HydraException:
                continue
    return None


def all_keys(plain: Any, path: str = "") -> Iterable[str]:
    """Yield the dotted keys of a plain config, without those that only Hydra reads (`_target_`)."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            if not str(key).startswith("_"):
                full = f"{path}.{key}" if path else str(key)
                yield full
                yield from all_keys(value, full)
