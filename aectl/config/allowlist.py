"""What a stored config may build: parts of a run, which compute and do nothing else.

A run folder may come from a stranger, who chooses freely among what is allowed here and the arguments it is called
with. A target is allowed if it is a class with one of the bases in `BASES`, or a
function marked by `aectl.data.datasets.dataset`. So a new model, noise, schedule or data set needs no entry here. A
class with one of those bases must not write files, start processes or open connections in its constructor.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

KNOWN_PACKAGES = ("aectl", "torch.nn", "torch.optim")
"""Where a name must begin, so that judging it imports no other package."""


class Base(NamedTuple):
    """Classes defined below `package` may be built if they derive from the class `name` of `module`."""

    package: str
    module: str
    name: str


BASES = (
    Base("torch.nn.modules", "torch.nn.modules.module", "Module"),
    Base("torch.optim", "torch.optim.optimizer", "Optimizer"),
    Base("aectl.models", "torch.nn.modules.module", "Module"),  # models, their layers and penalties
    Base("aectl", "aectl.models.base", "Model"),
    Base("aectl", "aectl.models.penalty", "Penalty"),
    Base("aectl", "aectl.data.noise", "Noise"),
    Base("aectl", "aectl.training.schedule", "Schedule"),
    Base("aectl.training.device", "aectl.training.device", "Device"),
    Base("aectl.rng", "aectl.rng", "Rng"),
)

PLAIN_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z]\w*)+", re.ASCII)
"""A dotted name without private parts such as `__builtins__`."""


def may_be_looked_up(name: Any, trust: Iterable[str]) -> bool:
    """Return whether a name starts with a known package or a module in `trust`; imports nothing."""
    if not isinstance(name, str):
        return False
    return is_in_modules(name, trust) or (
        is_in_modules(name, KNOWN_PACKAGES) and PLAIN_NAME.fullmatch(name) is not None
    )


def may_be_called(found: Any, trust: Iterable[str]) -> bool:
    """Return whether the object that a name resolves to may be called.

    The decision uses the module that defines it, because a name such as `torch.nn.modules.module.torch.os.system` only
    looks allowed. An object that its module does not have under its own name, such as a method, is refused.
    """
    module, name = (getattr(found, key, None) for key in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    if is_in_modules(module, trust):
        return inspect.isclass(found) or inspect.isroutine(found)
    if getattr(sys.modules.get(module), name, None) is not found:
        return False
    return has_allowed_base(found, module) if inspect.isclass(found) else makes_dataset(found)


def has_allowed_base(found: type, module: str) -> bool:
    """Return whether a class defined in `module` derives from one of `BASES`."""
    # A class has imported the modules of its bases. The others need not be imported.
    bases = [
        getattr(sys.modules.get(one.module), one.name, None) for one in BASES if is_in_modules(module, (one.package,))
    ]
    return any(inspect.isclass(base) and issubclass(found, base) for base in bases)


def makes_dataset(found: Any) -> bool:
    """Return whether a function of aectl is marked as one that returns a data set."""
    is_ours = inspect.isfunction(found) and is_in_modules(found.__module__, ("aectl",))
    return is_ours and getattr(found, "makes_dataset", False) is True


def reads_published_files(name: str) -> bool:
    """Return whether a name leads to a data set whose `root` holds published files, read only if their digests match.

    False for a module that is not imported yet.
    """
    module, _, function = name.rpartition(".")
    found = getattr(sys.modules.get(module), function, None)
    return makes_dataset(found) and getattr(found, "reads_published_files", False) is True


def is_misplaced(found: Any, path: str, node: Mapping[str, Any]) -> bool:
    """Return whether a data set function of aectl is used where its paths are not checked.

    That is outside of the group `dataset`, or with positional arguments.
    """
    return makes_dataset(found) and (not is_in_modules(path, ("dataset",)) or "_args_" in node)


def is_path(text: str) -> bool:
    """Return whether an item of `trust` is a path rather than a module."""
    return "/" in text or "\\" in text or text.startswith(("~", "."))


def is_in_modules(name: str, modules: Iterable[str]) -> bool:
    """Return whether a dotted name is one of the modules or inside one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
