"""Draw by matplotlib's defaults, whatever a matplotlibrc says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
