"""Keep matplotlib from reading a matplotlibrc of the working folder, which may be untrusted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def ignore_matplotlibrc() -> None:
    """Make a later import of matplotlib ignore the working folder's matplotlibrc, which could make it fail or hang."""
    if "matplotlib" not in sys.modules and not any(isinstance(one, MatplotlibFinder) for one in sys.meta_path):
        sys.meta_path.insert(0, MatplotlibFinder())


class MatplotlibFinder(MetaPathFinder):
    """Import hook that loads matplotlib with ElsewhereLoader and removes itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of matplotlib, None for other modules."""
        if name != "matplotlib":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = ElsewhereLoader(spec.loader.name, spec.loader.path)
        return spec


class ElsewhereLoader(SourceFileLoader):
    """Executes a module with its own folder as the working folder."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module."""
        try:
            before = Path.cwd()
        except OSError:
            # The working folder was removed, so it has no matplotlibrc.
            return super().exec_module(module)
        os.chdir(Path(self.path).parent)
        try:
            super().exec_module(module)
        finally:
            os.chdir(before)
