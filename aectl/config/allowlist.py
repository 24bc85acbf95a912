"""Whom the config of a stored run, which may be a stranger's, may name: parts of a run, which compute and no more.

A folder from the internet chooses freely among what is allowed here, and with which arguments it is called. So classes
that write files, start processes or open connections are not among it, whoever wrote them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

OURS = ("aectl", "torch.nn", "torch.optim")
"""Where a name must begin, so that judging it imports nobody else's module."""

PARTS = ("aectl.models", "aectl.data.noise", "aectl.rng", "aectl.training.device", "aectl.training.schedule")
"""Modules of ours whose classes may be made."""

DATA_SETS = (
    "aectl.data.datasets.mnist",
    "aectl.data.datasets.fashion_mnist",
    "aectl.data.datasets.digits",
    "aectl.data.datasets.arrays",
    "aectl.data.folder.folder",
    "aectl.data.patches.patches",
    "aectl.data.toy.toy",
)
"""Functions of ours that return a data set: they may be called as the run's data set, by keyword arguments alone."""

LIBRARY = {"torch.nn.modules": ("torch.nn", "Module"), "torch.optim": ("torch.optim", "Optimizer")}
"""Modules of torch with the base of those classes that may be made."""

PLAIN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z]\w*)+", re.ASCII)
"""A name with no part that Python keeps to itself, such as `__builtins__`."""


def may_be_looked_up(name: Any, trust: Iterable[str]) -> bool:
    """Return whether a name is one of ours or of a module in `trust`, by its words alone."""
    if not isinstance(name, str):
        return False
    return within(name, trust) or (within(name, OURS) and PLAIN.fullmatch(name) is not None)


def may_be_called(found: Any, trust: Iterable[str]) -> bool:
    """Return whether what a name leads to may be called.

    It is judged by the module that it is defined in: `torch.nn.modules.module.torch.os.system` begins well and leads
    elsewhere. What no module has under that name, such as a method, is nobody's to call.
    """
    module, name = (getattr(found, key, None) for key in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    if within(module, trust):
        return inspect.isclass(found) or inspect.isroutine(found)
    if getattr(sys.modules.get(module), name, None) is not found:
        return False
    if inspect.isclass(found):
        return within(module, PARTS) or is_library_part(found, module)
    return inspect.isfunction(found) and f"{module}.{name}" in DATA_SETS


def is_misplaced(found: Any, path: str, node: Mapping[str, Any]) -> bool:
    """Return whether a data set of ours stands where the paths it reads are not looked at.

    That is outside of `dataset`, or with arguments by position.
    """
    if not inspect.isfunction(found) or f"{found.__module__}.{found.__qualname__}" not in DATA_SETS:
        return False
    return not within(path, ("dataset",)) or "_args_" in node


def is_path(text: str) -> bool:
    """Return whether a word of `trust` names a file or a folder, and not a module."""
    return "/" in text or "\\" in text or text.startswith(("~", "."))


def is_library_part(found: type, module: str) -> bool:
    """Return whether a class is a layer or an optimizer of torch's own."""
    known = [where for place, where in LIBRARY.items() if within(module, (place,))]
    return any(issubclass(found, getattr(sys.modules[package], base)) for package, base in known)


def within(name: str, modules: Iterable[str]) -> bool:
    """Return whether a dotted name is one of the modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
