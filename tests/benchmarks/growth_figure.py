"""The figure of how training grows: a column for each axis, time above and memory below."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from aectl.figures.style import BLUE, DPI, ORANGE, SMALL, dress, name_axes, save

COLOURS = {"aectl": BLUE, "tutorial": ORANGE}
ROWS = {"seconds": ("µs an image", 1e6), "memory": ("MiB", 1.0)}
WIDE, HIGH = 3.4, 5.6


def draw(axes: dict[str, dict[str, dict[str, dict[str, float]]]], path: Path) -> None:
    """Draw the points of each contender over the sizes of each axis, both logarithmic, and write the figure."""
    figure = Figure(figsize=(WIDE * len(axes), HIGH), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(ROWS), len(axes), squeeze=False, sharex="col", sharey="row")
    for column, (title, found) in enumerate(axes.items()):
        for panel, (measure, (unit, factor)) in zip(panels[:, column], ROWS.items(), strict=True):
            dress(panel, "")
            for name, points in found.items():
                sizes = [int(size) for size in points]
                values = [factor * point[measure] for point in points.values()]
                panel.plot(sizes, values, marker="o", markersize=3, color=COLOURS[name], label=name)
            panel.set(xscale="log", yscale="log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
            name_axes(panel, title if measure == "memory" else "", unit if column == 0 else "")
    for panel in panels[0]:
        panel.legend(frameon=False, fontsize=SMALL)
    save(figure, path)
