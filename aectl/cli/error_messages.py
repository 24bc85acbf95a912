"""Error messages: turns an exception into one or two lines that the user can act on, and an exit code."""

from __future__ import annotations

import contextlib
import re
import shlex
import traceback
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config import conf_dir, list_options
from aectl.config.did_you_mean import (
    did_you_mean,
    find_nearest,
    find_same_keys,
    find_similar_keys,
    find_synonyms,
    format_override,
    iterate_keys,
    suggest_nearest,
)
from aectl.config.overrides import LAUNCHERS, UnknownFlag
from aectl.config.schema import UnknownKey
from aectl.system.atomic_write import describe_error, is_full

BAD_INPUT, UNEXPECTED = 2, 1
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def explain(error: Exception, name: str, overrides: Sequence[str]) -> tuple[str, int]:
    """Return the message for an exception and the exit code: 2 for errors that the user can fix, 1 for unexpected ones.

    `name` is the config that was composed, `overrides` are the typed ones.
    """
    system = next((e for e in (error, error.__cause__) if isinstance(e, OSError)), None)
    if isinstance(error, HydraException):
        return explain_composition(error, name, overrides), BAD_INPUT
    if isinstance(error, OmegaConfBaseException):
        return explain_value(error), BAD_INPUT
    if isinstance(error, UnknownFlag):
        return explain_unknown_flag(error, name, overrides), BAD_INPUT
    if isinstance(error, UnknownKey):
        return explain_unknown_key(error.key, name, overrides, error.value), BAD_INPUT
    if is_for_user(error):
        return str(error), BAD_INPUT
    where = system.filename or find_output_folder(system) if system is not None else None
    if system is not None and isinstance(error, (OSError, ValueError)) and (where or is_full(system)):
        hint = "\n  free some space and run the command again" if is_full(system) else ""
        return describe_error(system, where or "the output folder") + hint, UNEXPECTED
    first = (str(error).splitlines() or [""])[0]
    if OUT_OF_MEMORY.search(str(error)) or isinstance(error, MemoryError):
        return f"out of memory: {first}\n  a smaller batch_size or model needs less", BAD_INPUT
    if is_composition_error(error):
        return explain_failed_merge(first, overrides), BAD_INPUT
    return f"{type(error).__name__}: {first}\n  AECTL_DEBUG=1 shows the traceback", UNEXPECTED


def find_output_folder(error: OSError) -> str | None:
    """Return the folder that Hydra could not write to, which its errors do not name; None for other errors."""
    found = [frame.f_locals.get("output_dir") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((str(path) for path in reversed(found) if path), None)


def is_for_user(error: Exception) -> bool:
    """Return whether the message is for the user: an exception class of aectl, or a ValueError raised in aectl."""
    if type(error).__module__.partition(".")[0] == "aectl":
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    where = frames[-1].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and where.partition(".")[0] == "aectl"


def is_composition_error(error: Exception) -> bool:
    """Return whether an exception was raised while Hydra composed the config."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "hydra._internal.config_loader_impl" in frames


def explain_failed_merge(first: str, overrides: Sequence[str]) -> str:
    """Return the message for an error of Hydra that does not name the override, most likely an unknown option."""
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        if (known := list_options().get(key)) and value not in known:
            return f"no {key} called '{value}'\n  there are: {', '.join(known)}"
    return f"cannot read the settings: {first}"


def explain_composition(error: HydraException, name: str, overrides: Sequence[str]) -> str:
    """Return the message for a command line that Hydra could not compose."""
    text, cause = str(error), error.__cause__
    if isinstance(error, OverrideParseException):
        return explain_syntax(text, error.override, name, overrides)
    if isinstance(error, MissingConfigException):
        return explain_missing_option(text)
    if match := re.search(r"Ambiguous value for argument '(.+)'|Sweep parameters '(.+)' requires", text):
        return explain_several_values(match[1] or match[2], name, overrides)
    if match := re.search(r"Could not override '([^'@]+)'\.\s+(?:To append|No match)", text):
        return explain_unknown_key(match[1], name, overrides)
    if match := re.search(r"Could not delete from config\. '([^']+)' does not exist", text):
        return explain_removal(match[1], name, overrides)
    if match := re.search(r"Multiple values for (\S+)\. ", text):
        return f"{match[1]} has a value already: write {match[1]}=… without the +"
    if match := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"{match[1]} has a value already: write {match[1]}=… without the +"
    if isinstance(cause, OmegaConfBaseException):
        return explain_value(cause)
    first, *others = (text or str(cause)).splitlines()
    if first.endswith("raised while composing config:") and others:
        return f"{first.partition(': ')[0]}: {others[0]}"
    return f"{first}\n  {str(cause).splitlines()[0]}" if cause is not None and str(cause) not in first else first


def explain_value(error: OmegaConfBaseException) -> str:
    """Return the message for a value of the wrong type, starting with its key."""
    first = (error.msg or str(error)).splitlines()[0]
    if match := re.match(r"ConfigError raised while resolving interpolation: (.*)", first):
        # One of our resolvers has refused a value, and named its key.
        return match[1]
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", first):
        first = f"'{match[1]}' is not {TYPES.get(match[2], match[2])}"
    return f"{error.full_key}: {first}" if error.full_key else first


def explain_syntax(text: str, word: str, name: str, overrides: Sequence[str]) -> str:
    """Return the message for a word that cannot be parsed as key=value."""
    for bare in overrides:
        if "=" not in bare and not bare.startswith("~"):
            return f"'{bare}' is not key=value{suggest_for_word(bare, name, overrides)}"
    key, _, value = word.partition("=")
    lines = [line for line in text.splitlines() if line.strip(" ^~") and "See https" not in line]
    detail = (lines or [""])[-1].partition(" expecting")[0]
    return f"cannot read {word}: {detail}\n  quote what has brackets or signs: \"{key}='{value}'\""


def explain_missing_option(text: str) -> str:
    """Return the message for an unknown option of a group, with the nearest name and all options."""
    match = re.search(r"Could not (?:find|load) '(.+)/([^/']*)'", text)
    if match is None:
        return text.splitlines()[0]
    group, option = match.groups()
    known = re.findall(r"^\t(\S+)$", text.partition("Config search path")[0], re.MULTILINE) or list_options().get(
        group, []
    )
    first = f"no {group} called '{option}'{suggest_nearest(option, known)}"
    if group in ("hydra/launcher", "hydra/sweeper"):
        first += f"; it may need the package hydra-{option.replace('_', '-')}-{group.partition('/')[2]}"
    return f"{first}\n  there are: {', '.join(known)}" if known else first


def explain_several_values(word: str, name: str, overrides: Sequence[str]) -> str:
    """Return the message for a key with several values: the command of a sweep, or a list if the key is one."""
    command = "train" if name == "resume" else name
    key, _, value = word.partition("=")
    again = shlex.join(["aectl", command, "-m", *overrides])
    config, _ = load_reference(name, overrides)
    if isinstance(dict(iterate_keys(config)).get(key), list):
        listed = format_override(key, value, config, {})
        return f"{word} gives several values: {listed} is a list\n  one run for each: {again}"
    return f"{word} gives several values: add -m to {command} once for each\n  {again}"


def explain_unknown_flag(error: UnknownFlag, name: str, overrides: Sequence[str]) -> str:
    """Return the message for an unknown flag, with the override to type instead."""
    config, _ = load_reference(name, overrides)
    if error.key in dict(iterate_keys(config)):
        override = format_override(error.key, error.value, config, list_options())
        return f"{error}: settings are typed without dashes: {override}"
    near = suggest_settings(error.key, error.value, config)
    return f"{error}{did_you_mean(near[:1], 'aectl --help shows how')}"


def suggest_for_word(word: str, name: str, overrides: Sequence[str]) -> str:
    """Return a suggestion for a word without `=`: an option, a run, or a key followed by its value."""
    config, _ = load_reference(name, overrides)
    after = next((other for before, other in pairwise(overrides) if before == word and "=" not in other), "")
    groups = [group for group, names in list_options().items() if group in config and word in names]
    if word == "latest" or Path(word).is_dir():
        near = [f"{'resume' if name == 'train' else 'run'}={word}"]
    elif groups:
        near = [f"{groups[0]}={word}"]
    elif word in dict(iterate_keys(config)):
        near = [format_override(word, after, config, list_options())]
    else:
        meant = [(group, find_nearest(word, names)) for group, names in list_options().items() if group in config]
        near = [f"{group}={found[0]}" for group, found in meant if found] or suggest_settings(word, after, config)
    return did_you_mean(near[:1])


def explain_unknown_key(key: str, name: str, overrides: Sequence[str], value: str | None = None) -> str:
    """Return the message for an unknown key, with the override to type instead."""
    config, choices = load_reference(name, overrides)
    if not config or key.startswith("hydra."):
        return f"no key '{key}'\n  aectl {name} --cfg hydra shows Hydra's own"
    keys = dict(iterate_keys(config))
    if key in keys:
        return f"no key '{key}': another override has removed it"
    if value is None:
        typed = [word.lstrip("+~").partition("=") for word in overrides]
        value = next((given for name, _, given in reversed(typed) if name == key), "")
    if "dataset.keys" in keys and (roles := format_array_roles([*overrides, f"{key}={value}"])):
        return f"no key '{key}'{did_you_mean([shlex.quote(f'dataset.keys={{{roles}}}')])}"
    if near := suggest_settings(key, value, config):
        return f"no key '{key}'{did_you_mean(near)}"
    parent = key.rpartition(".")[0]
    if siblings := [one for one in keys if one.rpartition(".")[0] == parent]:
        return f"no key '{key}'\n  there are: {', '.join(siblings)}"
    if parent in choices:
        others = [one for one in list_options().get(parent, []) if one != choices[parent]]
        return f"no key '{key}': {parent}={choices[parent]} has none\n  other options: {', '.join(others)}"
    return f"no key '{key}'\n  aectl {name} --help lists the keys"


def format_array_roles(overrides: Iterable[str]) -> str:
    """Return overrides such as `dataset.keys.images=a` or `dataset.images=a` as a mapping: `images: a`."""
    pattern = r"\+{0,2}dataset\.(?:keys\.((?:train_|valid_|test_)?(?:images|labels))|(images))=(.*)"
    found = [re.fullmatch(pattern, word) for word in overrides]
    return ", ".join(dict.fromkeys(f"{match[1] or match[2]}: {match[3] or '…'}" for match in found if match))


def explain_removal(key: str, name: str, overrides: Sequence[str]) -> str:
    """Return the message for a failed `~key`: the key is null already, or does not exist."""
    config, _ = load_reference(name, overrides)
    if key in dict(iterate_keys(config)):
        return f"~{key}: it is null already\n  leave it out, or set {key}=…"
    return explain_unknown_key(key, name, overrides, "")


def suggest_settings(key: str, value: str, config: Mapping[str, Any]) -> list[str]:
    """Return what to type instead of `key=value`: a key of the same meaning, of any option, or a similar one."""
    if near := find_same_keys(key, config):
        return [format_override(one, value, config, list_options()) for one in near]
    for meant in find_synonyms(key) if "." not in key else ():
        group, _, leaf = meant.partition(".")
        if group in config and (option := find_option(group, leaf)):
            return [f"{group}={option} {format_override(meant, value, config, {})}"]
    return [format_override(one, value, config, list_options()) for one in find_similar_keys(key, config)]


def find_option(group: str, key: str) -> str | None:
    """Return the option of a group that has `key` and the fewest keys; None if no option has it, or for models."""
    if not key or group == "model":
        return None
    found = {}
    for option in list_options().get(group, []):
        keys = re.findall(
            r"^(\w+):", Path(conf_dir(), group, f"{option}.yaml").read_text(encoding="utf-8"), re.MULTILINE
        )
        if key in keys:
            found[option] = len(keys)
    return min(found, key=lambda option: found[option], default=None)


def load_reference(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config in which suggestions are looked up, with the keys of sweeps, and the option of each group."""
    config = compose_reference(name, overrides)
    if config is None:
        return {}, {}
    choices = {str(group): option for group, option in config.hydra.runtime.choices.items()}
    plain = {
        str(key): value
        for key, value in cast("dict[Any, Any]", OmegaConf.to_container(config)).items()
        if key != "hydra"
    }
    return {**plain, **(dict.fromkeys(LAUNCHERS) if name == "train" else {})}, choices


def compose_reference(name: str, overrides: Sequence[str]) -> DictConfig | None:
    """Return the config composed with the typed options; the default config if these do not compose."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    # Inside a command Hydra is initialised already, and refuses a second time.
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    groups = [o for o in overrides if re.fullmatch(r"\w+=\w+", o) and o.partition("=")[0] in list_options()]
    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            for chosen in (groups, []):
                with contextlib.suppress(HydraException):
                    return compose(name, chosen, return_hydra_config=True)
        return None
    finally:
        GlobalHydra.instance().hydra = outer
