"""Build objects from config nodes, after checks of their arguments and of what a stored config may name."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from aectl.config.allowlist import (
    KNOWN_PACKAGES,
    is_in_modules,
    is_misplaced,
    is_path,
    may_be_called,
    may_be_looked_up,
)
from aectl.config.did_you_mean import suggest_nearest
from aectl.config.import_name import locate
from aectl.config.type_check import describe_type, fits, get_hints, with_floats
from aectl.system.machine import NotEnoughMemory

RESERVED = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


class ConfigError(ValueError):
    """The command or the config is invalid; the message is for the user."""


def conf_dir() -> str:
    """Return the absolute path of conf/: in the installed package, or next to it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise ConfigError(f"no conf folder in {here} or next to it: the installation is incomplete")


def list_options() -> dict[str, list[str]]:
    """Return the options of each config group in conf/."""
    folders = sorted(path for path in Path(conf_dir()).iterdir() if path.is_dir() and path.name != "hydra")
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def build(node: Any, path: str = "", **supplied: Any) -> Any:
    """Build the object that `node` describes; None if it has no `_target_`.

    All objects of a config are built here. `supplied` are arguments from the program; those that the target does not
    take are ignored. With `_partial_: true` a callable is returned. Raises ConfigError, with a message that starts with
    `path`, if the target cannot be found or refuses its arguments.
    """
    plain = to_plain(node)
    if not has_target(plain):
        return None
    found = {where: find_target(name, where) for where, name in iterate_targets(plain, path)}
    target, partial = found[path], plain.get("_partial_")
    given = {name: value for name, value in supplied.items() if takes_argument(target, name)}
    if not partial:
        check_complete(target, {**plain, **given}, path)
    try:
        # Supplied values bypass OmegaConf, which copies objects and converts tuples to lists.
        make = instantiate(node, _convert_="all", _partial_=True, **build_allowlist(plain))
        given = {**find_float_lists(target, plain), **given}
        return functools.partial(make, **given) if partial else make(**given)
    except InstantiationException as error:
        raise translate_error(error, path) from error
    except (ConfigError, NotEnoughMemory):
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{locate_error(error, path)}: {error}") from error


def find_float_lists(target: Callable[..., Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a plain node that `with_floats` changes."""
    hints = get_hints(target)
    changed = {key: with_floats(value, hints[key]) for key, value in plain.items() if key in hints}
    return {key: value for key, value in changed.items() if value is not plain[key]}


def translate_error(error: InstantiationException, path: str) -> Exception:
    """Return the error of a component inside the node; errors about its arguments become ConfigError."""
    cause: BaseException | None = error
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, Exception) and not isinstance(cause, (TypeError, ValueError, InstantiationException)):
        return cause
    return ConfigError(f"{locate_error(error, path)}: {str(cause).splitlines()[0]}")


def locate_error(error: Exception, path: str) -> str:
    """Return the path of the inner node that raised an error if Hydra reports it, else `path`."""
    # Hydra 1.3 has it in the text, 1.4 in a note. It is a full path if the node belongs to a config.
    match = re.search(r"full_key: (\S+)", "\n".join([str(error), *getattr(error, "__notes__", ())]))
    if not match or match[1] == path:
        return path
    return match[1] if is_in_modules(match[1], (path,)) else join_path(path, match[1])


def build_allowlist(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword argument that allows the targets of a node in Hydra 1.4; empty for 1.3."""
    known = inspect.signature(instantiate).parameters
    keys = [key for key in ("_execution_whitelist_", "_target_whitelist_") if key in known]
    return {keys[0]: [name for _, name in iterate_targets(plain, "")]} if keys else {}


def accepts(node: Any, name: str) -> bool:
    """Return whether the target of `node` has a parameter `name`; False without a target."""
    plain = to_plain(node)
    return has_target(plain) and takes_argument(find_target(plain["_target_"], ""), name)


def check_has_target(config: Any, groups: Iterable[str]) -> None:
    """Raise ConfigError if one of the groups has no `_target_`."""
    for group in groups:
        if not has_target(to_plain(config.get(group))):
            raise ConfigError(f"{group} has no _target_: choose an option with {group}=")


def check_signature(node: Any, path: str = "") -> None:
    """Raise ConfigError if a node, or one inside it, has a key or value that its target's signature does not allow.

    Missing arguments are not checked here, because the program may supply them; `build` checks them.
    """
    for where, mapping in iterate_mappings(to_plain(node), path):
        if has_target(mapping):
            check_arguments(find_target(mapping["_target_"], where), mapping, where)


def check_no_settings(node: Any, path: str) -> None:
    """Raise ConfigError if a node without `_target_`, such as noise=none, has settings."""
    plain = to_plain(node)
    if isinstance(plain, Mapping) and not has_target(plain) and (keys := [k for k in plain if k not in RESERVED]):
        raise ConfigError(f"{join_path(path, str(keys[0]))}: {path} has no _target_, so it takes no settings")


def check_arguments(target: Callable[..., Any], given: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError if `target` does not take a name in `given`, or the value has the wrong type."""
    types = get_hints(target)
    for key, value in given.items():
        full = join_path(path, key)
        if key in RESERVED:
            continue
        if not takes_argument(target, key):
            known = list(list_parameters(target) or {})
            raise ConfigError(
                f"{full}: {target.__name__} takes no '{key}'"
                + suggest_nearest(key, known, "it takes " + (", ".join(known) or "nothing"))
            )
        if value == "???":
            raise ConfigError(f"{full} is missing: type {full}=…")
        left_out = value is None and known_default(target, key) is None
        if key in types and not left_out and not fits(value, types[key]):
            raise ConfigError(f"{full}={value!r}: it must be {describe_type(types[key])}")


def known_default(target: Callable[..., Any], name: str) -> Any:
    """Return the default of a parameter, `...` if it has none; a default of None is valid whatever the hint."""
    parameter = (list_parameters(target) or {}).get(name)
    return ... if parameter is None else parameter.default


def check_complete(target: Callable[..., Any], given: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError if a required parameter of `target` is missing."""
    for name, parameter in (list_parameters(target) or {}).items():
        if parameter.default is parameter.empty and name not in given and "_args_" not in given:
            raise ConfigError(f"{join_path(path, name)} is missing: {target.__name__} needs it")


def check_trusted(node: Any, trust: str | Iterable[str] = ()) -> None:
    """Raise ConfigError unless every `_target_` in a stored config is allowed; see `allowlist.py`.

    Classes and functions of the modules in `trust` are also allowed. Names are checked before any import. Then each is
    resolved and its object checked, because a name with an allowed prefix may lead to another module.
    """
    # Paths do not allow code, even if part of a path equals the name of a module.
    trust = tuple(word for word in ([trust] if isinstance(trust, str) else trust) if not is_path(word))
    named = [(path, part) for path, part in iterate_mappings(to_plain(node), "") if has_target(part)]
    for path, part in named:
        if not may_be_looked_up(part["_target_"], trust):
            raise untrusted_error(path, part["_target_"], str(part["_target_"]))
    for path, part in named:
        found = find_target(part["_target_"], path)
        if not may_be_called(found, trust):
            raise untrusted_error(path, part["_target_"], getattr(found, "__module__", None) or part["_target_"])
        if is_misplaced(found, path, part):
            raise ConfigError(
                f"{path}: the stored config names {part['_target_']}, which is only allowed as dataset, without _args_"
            )


def untrusted_error(path: str, name: Any, module: str) -> ConfigError:
    """Return the error for a refused target of a stored config."""
    root = module.partition(".")[0]
    return ConfigError(
        f"{path}: the stored config names {name}, which is not a part of aectl or torch; "
        f"if you trust the code in '{root}', add trust={root}"
    )


def find_target(name: Any, path: str) -> Callable[..., Any]:
    """Return the class or function that a `_target_` names; raises ConfigError if it cannot be imported."""
    key = join_path(path, "_target_")
    if name == "???":
        raise ConfigError(f"{key} is missing: type {key}=my_module.MyClass")
    try:
        found = locate(str(name))
    except ImportError as error:
        raise ConfigError(f"{path or '_target_'}: {error}") from error
    if not callable(found):
        raise ConfigError(f"{path or '_target_'}: '{name}' is not a class or function")
    return found


def list_parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the keyword parameters of a target; None if it accepts any name or has no signature."""
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return None
    return {name: p for name, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def takes_argument(target: Callable[..., Any], name: str) -> bool:
    """Return whether `target` accepts a keyword argument `name`."""
    known = list_parameters(target)
    return known is None or name in known


def has_target(plain: Any) -> bool:
    """Return whether a plain node has a `_target_`."""
    return isinstance(plain, Mapping) and plain.get("_target_") is not None


def to_plain(node: Any) -> Any:
    """Return a node as dicts and lists with interpolations resolved."""
    if isinstance(node, (dict, list)):
        node = OmegaConf.create(node, flags={"allow_objects": True})
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def iterate_mappings(plain: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the dotted path and the mapping of each mapping in a plain node, outer ones first."""
    if isinstance(plain, Mapping):
        yield path, plain
        for key, value in plain.items():
            yield from iterate_mappings(value, join_path(path, str(key)))
    elif isinstance(plain, (list, tuple)):
        for index, value in enumerate(plain):
            yield from iterate_mappings(value, f"{path}[{index}]")


def iterate_targets(plain: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the `_target_` of each node that has one."""
    for where, mapping in iterate_mappings(plain, path):
        if has_target(mapping):
            yield where, mapping["_target_"]


def find_other_modules(config: Any) -> list[str]:
    """Return the top-level modules other than aectl and torch in a config's targets."""
    plain = OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    named = [str(name) for _, name in iterate_targets(plain, "")]
    return list(dict.fromkeys(name.partition(".")[0] for name in named if not is_in_modules(name, KNOWN_PACKAGES)))


def uses_own_modules(config: Any, is_typed: bool) -> bool:
    """Return whether modules in the working folder may be imported: a typed config names one, or `trust` does.

    Otherwise an untrusted run folder as working folder could contain modules that torch imports if present.
    """
    trust = config.get("trust") or []
    # What is neither a name nor a list is refused by check_early.
    words = [trust] if isinstance(trust, str) else trust if isinstance(trust, Sequence) else []
    trusted = [word for word in words if not is_path(str(word))]
    return bool(trusted) or (is_typed and bool(find_other_modules(config)))


def join_path(path: str, key: str) -> str:
    """Return the dotted path of a key."""
    return f"{path}.{key}" if path else key
