"""Find the kinds of images: each module of this package may assign a tuple to `KINDS`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from aectl.sampling.kind import Kind


def find_kinds() -> Iterator[Kind]:
    """Yield the kinds that the modules of this package declare."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        if module.name != __name__:
            yield from getattr(importlib.import_module(module.name), "KINDS", ())


KINDS = {one.name: one for one in sorted(find_kinds(), key=lambda one: (one.order, one.name))}
"""All kinds by name, in the order in which they are made."""
