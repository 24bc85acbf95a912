"""Draw by matplotlib's defaults, whatever a matplotlibrc says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


@contextmanager
def default_style() -> Iterator[None]:
    """Context, or decorator, in which matplotlib has its default settings.

    It reads a matplotlibrc of the working folder before any other. In a folder from elsewhere, `text.usetex` there
    would have LaTeX run for each figure.
    """
    import matplotlib

    settings = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context(settings):
        yield


def leave_matplotlibrc() -> None:
    """Let matplotlib, once it is imported, read no matplotlibrc of the working folder, which could fail or hang."""
    if "matplotlib" not in sys.modules and not any(isinstance(one, MatplotlibFinder) for one in sys.meta_path):
        sys.meta_path.insert(0, MatplotlibFinder())


class MatplotlibFinder(MetaPathFinder):
    """Finds matplotlib where it is, to be executed in its own folder."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how matplotlib is imported; None for other modules."""
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
            # The folder is gone, and with it what is in it.
            return super().exec_module(module)
        os.chdir(Path(self.path).parent)
        try:
            super().exec_module(module)
        finally:
            os.chdir(before)
