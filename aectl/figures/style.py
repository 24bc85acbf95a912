"""The plotting style of all figures: settings, colours, sizes and file format. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aectl.system.atomic_write import write_atomically

DPI = 150
INK, FAINT = "#222222", "#d9d9d9"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"
"""Colours of Okabe and Ito's palette, which are distinguishable with colour-blindness and in print."""
CLASSES = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#555555")
"""Paul Tol's 'muted' colours and a grey."""
MARKERS = "os^Dv<>Phd"
"""Markers of the classes, in addition to colours."""
TITLE, LABEL, SMALL = 11, 9, 8
"""Font sizes in points."""


@contextmanager
def default_style() -> Iterator[None]:
    """Use matplotlib's default settings within the block, or the decorated function.

    matplotlib reads a matplotlibrc of the working folder. In an untrusted folder, it could set `text.usetex` and
    thereby run LaTeX.
    """
    settings = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context(settings):
        yield


def chart(title: str, width: float = 6.0, height: float = 3.6) -> tuple[Figure, Axes]:
    """Return a figure of `width` × `height` inches with one panel in this style."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    dress(axes, title)
    return figure, axes


def dress(axes: Axes, title: str, size: float = TITLE) -> None:
    """Set the title of a panel, draw a faint grid and remove the frame at the top and right."""
    axes.set_title(title, fontsize=size, color=INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes."""
    axes.set_xlabel(x, fontsize=LABEL, color=INK)
    axes.set_ylabel(y, fontsize=LABEL, color=INK)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, creating its folder; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Omit matplotlib's version from the file, so that equal figures are equal files.
    with write_atomically(path, sync=False) as file:
        figure.savefig(file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return path
