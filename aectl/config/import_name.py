"""Import the class or function with a dotted name such as `my_module.MyModel`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from aectl.config.did_you_mean import suggest_nearest


def locate(name: str) -> Any:
    """Return the object with a dotted name; imports the modules in it.

    Raises ImportError with a message for the user: the missing part and a similar name, or the module that failed.
    """
    first, *rest = name.split(".")
    found, path = import_module(first, name, list_nearby_modules()), first
    for part in rest:
        path = f"{path}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, ModuleType):
            found = import_module(path, name, list_members(found))
        else:
            raise ImportError(missing_message(name, path, dir(found)))
    return found


def import_module(path: str, name: str, neighbours: Iterable[str]) -> ModuleType:
    """Import the module `path`, the beginning of the dotted `name`.

    Raises ImportError with a message for the user, which suggests the most similar of `neighbours`.
    """
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        # The module or its package is missing, not another module that it imports.
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            raise ImportError(missing_message(name, path, neighbours)) from None
        raise ImportError(failed_message(name, path, error)) from error
    except Exception as error:
        raise ImportError(failed_message(name, path, error)) from error


def missing_message(name: str, path: str, neighbours: Iterable[str]) -> str:
    """Return the message for a missing part of a dotted name."""
    parent, _, part = path.rpartition(".")
    where = f"'{parent}' has no '{part}'" if parent else f"there is no module '{part}' here or in installed packages"
    return f"cannot find '{name}': {where}" + suggest_nearest(part, [n for n in neighbours if not n.startswith("_")])


def failed_message(name: str, path: str, error: Exception) -> str:
    """Return the message for a module whose import failed."""
    return f"cannot find '{name}': importing '{path}' failed with {type(error).__name__}: {error}"


def list_nearby_modules() -> list[str]:
    """Return the modules in the working folder, aectl and torch, as candidates for a misspelt name."""
    return ["aectl", "torch", *(module.name for module in pkgutil.iter_modules([str(Path.cwd())]))]


def list_members(module: ModuleType) -> list[str]:
    """Return the names in a module, including submodules that are not imported yet."""
    return [*dir(module), *(one.name for one in pkgutil.iter_modules(getattr(module, "__path__", [])))]
