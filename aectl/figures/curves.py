"""Learning curves of a run, from its metrics.csv."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aectl.figures import style
from aectl.training.metrics_csv import read_metrics_csv

COLUMNS = 3
WIDTH, HEIGHT, LOSS_HEIGHT = 10.2, 2.3, 3.8
"""Inches: width of the figure, height of a row of small panels, and height of the loss panel."""
LOOKS = {
    "train": {"color": style.BLUE, "linestyle": "-"},
    "val": {"color": style.ORANGE, "linestyle": "--"},
    "": {"color": style.INK, "linestyle": "-"},
}
SHADES = (1.0, 0.5)
"""Opacities by which several curves of one split are distinguished."""

Curve = list[float]


def learning_curves(metrics_csv: Path) -> Figure:
    """Show every metric over the epochs, with one panel per metric and a large panel for all losses on top.

    Raises ValueError if the file has no finished epoch, and OSError if it cannot be read.
    """
    epochs, stages, curves = read_curves(metrics_csv)
    panels: dict[str, dict[str, Curve]] = {"loss": {}}
    for tag, values in curves.items():
        name = tag.rpartition("/")[2]
        panels.setdefault("loss" if name.startswith("loss") else name, {})[tag] = values
    panels = {name: found for name, found in panels.items() if found}
    on_top = int("loss" in panels)
    others = len(panels) - on_top
    columns = max(1, min(COLUMNS, others))
    heights = [LOSS_HEIGHT] * on_top + [HEIGHT] * -(-others // columns)
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=style.DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    places = [grid[0, :]] * on_top + [grid[on_top + i // columns, i % columns] for i in range(others)]
    for place, (name, found) in zip(places, panels.items(), strict=True):
        axes = figure.add_subplot(place)
        draw_panel(axes, name, epochs, found)
        for before, (earlier, later) in zip(epochs, pairwise(stages), strict=False):
            if earlier != later:
                axes.axvline(before + 0.5, color=style.GREY, linewidth=0.8, linestyle=":")
    return figure


def draw_panel(axes: Axes, name: str, epochs: list[int], curves: dict[str, Curve]) -> None:
    """Draw the curves of one metric."""
    style.dress(axes, "learning rate" if name == "lr" else name.replace("_", " "), style.LABEL + 1)
    seen = dict.fromkeys(LOOKS, 0)
    for tag, values in curves.items():
        part = tag.rpartition("/")[0]
        look: dict[str, Any] = LOOKS.get(part, LOOKS[""])
        shade = SHADES[seen.get(part, 0) % len(SHADES)]
        seen[part] = seen.get(part, 0) + 1
        marker = "o" if len(epochs) < 12 else None
        axes.plot(epochs, values, label=tag, marker=marker, markersize=3, linewidth=1.4, alpha=shade, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("epoch", fontsize=style.SMALL, color=style.INK)
    if name == "lr":
        # Otherwise the axis of a constant rate would show only rounding errors.
        axes.set_ylim(0, 1.1 * max(max(values) for values in curves.values()))
    if any(tag != name for tag in curves):
        axes.legend(fontsize=style.SMALL - 1, frameon=True, framealpha=0.8, edgecolor="none")


def read_curves(path: Path) -> tuple[list[int], list[str], dict[str, Curve]]:
    """Return epochs, their stages, and the values of each metric, nan where an epoch has none; without the seconds."""
    _, rows = read_metrics_csv(path)
    if not rows:
        raise ValueError(f"{path} has no finished epoch")
    tags = [tag for tag in rows[0] if tag not in ("epoch", "stage", "seconds")]
    curves = {tag: [float(row[tag]) if row[tag] else math.nan for row in rows] for tag in tags}
    return [int(row["epoch"]) for row in rows], [row["stage"] for row in rows], curves
