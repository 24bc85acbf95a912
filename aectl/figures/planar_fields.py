"""Figures of planar data (images of two values): points, displacement fields and energies.

An image with pixels x and y is drawn as the point (x, y).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import style
from aectl.models.base import Energy, Reconstructs

ARROWS, CELLS, LEVELS = 25, 101, 12
"""Points along a side of the grid of arrows and of the grid of contours, and largest number of contour levels."""
MAX_ENERGY_RANGE = 20.0
"""Energies of more than this many nats above the minimum share one colour."""
MAX_POINTS = 2000
"""Largest number of data points drawn."""
LENGTHS = ListedColormap(colormaps["viridis"](np.linspace(0.85, 0.0, 256)))
"""Colours of arrows: viridis without its yellow end, which is hard to see on white. The longest are the darkest."""


def displacements(model: Reconstructs, grid: Tensor) -> Tensor:
    """Return g(f(x)) - x, [N, 2], of points given as images [N, C, H, W] of two values.

    For a denoising autoencoder trained with Gaussian noise of standard deviation σ this approximates σ² ∇ log p(x),
    which points towards the data (lecture, "Denoising AEs"; Alain & Bengio 2014).
    """
    return (model.reconstruct(grid) - grid).flatten(1)


def make_grid(source: Source, side: int) -> Tensor:
    """Return a grid of side² points of the unit square as images [side², C, H, W], lowest row first."""
    steps = torch.linspace(0, 1, side, device=source.images.device)
    return torch.cartesian_prod(steps, steps).flip(1).view(-1, *source.shape)


def vector_field(model: Reconstructs, source: Source, title: str) -> Figure:
    """Show the displacements g(f(x)) - x over the unit square, with the points of `source` (images of two values).

    Left: displacements as arrows, shortened to at most the grid spacing; the colour shows the true length. Right:
    their length, the reconstruction error.
    """
    figure, (left, right) = make_panels(2, title, bars=True)
    arrows = draw_arrows(left, model, source)
    format_panel(left, "g(f(x)) - x, where each point is moved")
    colour_bar(figure, left, arrows, "length of g(f(x)) - x")
    shades = draw_errors(right, model, source)
    format_panel(right, "‖g(f(x)) - x‖, the reconstruction error")
    colour_bar(figure, right, shades, "reconstruction error")
    return figure


def landscape(model: Energy, source: Source, title: str) -> Figure:
    """Show the energies E in nats over the unit square, and exp(-E), with the points of `source`.

    The images of `source` must have two values. exp(-E) is the density, up to a factor if the energies are not
    normalised.
    """
    figure, (left, right) = make_panels(2, title, bars=True)
    steps = np.linspace(0, 1, CELLS)
    energies = model.energy(make_grid(source, CELLS)).float().cpu().numpy().reshape(CELLS, CELLS)
    lowest, highest = energies.min(), max(energies.max(), energies.min() + 1e-3)
    levels = np.linspace(lowest, min(highest, lowest + MAX_ENERGY_RANGE), LEVELS + 1)
    shades = left.contourf(steps, steps, energies, levels=levels, cmap="Blues_r", extend="max")
    draw_data(left, source.pixels(), style.ORANGE)
    format_panel(left, "E(x), the energy")
    colour_bar(figure, left, shades, "energy in nats")
    shades = right.contourf(steps, steps, np.exp(lowest - energies) * math.exp(-lowest), levels=LEVELS, cmap="Blues")
    format_panel(right, "exp(-E(x)), the density up to a factor")
    colour_bar(figure, right, shades, "exp(-E(x))")
    return figure


def points(panels: Mapping[str, Tensor], title: str, labels: Tensor | None = None) -> Figure:
    """Show sets of points (images [N, C, H, W] of two values) side by side, under their names.

    The first set is the data, which is also drawn faintly in the other panels. Points are coloured by `labels` [N], if
    given (-1: none). At most MAX_POINTS points of each set are drawn.
    """
    figure, axes = make_panels(len(panels), title)
    data = next(iter(panels.values()))
    for panel, (name, images) in zip(axes, panels.items(), strict=True):
        if images is not data:
            draw_data(panel, data)
        xy = coordinates(images)
        chosen = spaced_indices(len(xy))
        classes = np.full(len(xy), -1) if labels is None else labels.cpu().numpy()
        # If there are more classes than colours, colours repeat.
        colours = [style.CLASSES[c % len(style.CLASSES)] if c >= 0 else style.BLUE for c in classes[chosen]]
        panel.scatter(xy[chosen, 0], xy[chosen, 1], s=5, c=colours, alpha=0.7, linewidths=0, zorder=3)
        format_panel(panel, name)
    return figure


def paths(ways: Tensor, source: Source, title: str) -> Figure:
    """Show paths of decoded points [rows, steps, C, H, W] as lines with marked ends, over the points of `source`."""
    figure, (axes,) = make_panels(1, title)
    draw_data(axes, source.pixels())
    for i, way in enumerate(coordinates(ways.flatten(0, 1)).reshape(*ways.shape[:2], 2)):
        colour = style.CLASSES[i % len(style.CLASSES)]
        axes.plot(*way.T, color=colour, marker="o", markersize=2.5, linewidth=1.2, zorder=3)
        axes.plot(*way[[0, -1]].T, color=colour, marker="o", markersize=6, linewidth=0, zorder=4)
    format_panel(axes)
    return figure


def mesh(images: Tensor, source: Source, title: str) -> Figure:
    """Show a decoded grid of codes [rows, columns, C, H, W] as a mesh, over the points of `source`."""
    figure, (axes,) = make_panels(1, title)
    draw_data(axes, source.pixels())
    net = coordinates(images.flatten(0, 1)).reshape(*images.shape[:2], 2)
    for lines, colour, name in ((net, style.BLUE, "first"), (net.swapaxes(0, 1), style.ORANGE, "second")):
        for i, line in enumerate(lines):
            label = f"along the {name} coordinate" if i == 0 else None
            axes.plot(*line.T, color=colour, linewidth=0.9, alpha=0.8, label=label, zorder=3)
    axes.legend(fontsize=style.SMALL, frameon=True, framealpha=0.8, edgecolor="none", loc="upper right")
    format_panel(axes)
    return figure


def render_figure(figure: Figure, dpi: float) -> Tensor:
    """Return a figure as an image [3, H, W] in [0, 1]."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).float() / 255


def draw_arrows(axes: Axes, model: Reconstructs, source: Source) -> Quiver:
    """Draw displacements on a grid of `ARROWS`² points, shortened to the grid spacing and coloured by length."""
    grid = make_grid(source, ARROWS)
    moved = displacements(model, grid).float().cpu().numpy()
    lengths = np.hypot(*moved.T)
    short = moved * np.minimum(1, 1 / (ARROWS - 1) / np.maximum(lengths, 1e-12))[:, None]
    draw_data(axes, source.pixels())
    return axes.quiver(
        *coordinates(grid).T, *short.T, lengths, cmap=LENGTHS, angles="xy", scale_units="xy", scale=1, width=0.0035,
        headwidth=4, headlength=4.5, headaxislength=4, minlength=0.5, zorder=3,
    )  # fmt: skip


def draw_errors(axes: Axes, model: Reconstructs, source: Source) -> QuadContourSet:
    """Draw the lengths of displacements as filled contours, with the points of `source` on top."""
    steps = np.linspace(0, 1, CELLS)
    lengths = displacements(model, make_grid(source, CELLS)).float().norm(dim=1).cpu().numpy().reshape(CELLS, CELLS)
    shades = axes.contourf(steps, steps, lengths, levels=LEVELS, cmap="Blues")
    draw_data(axes, source.pixels(), style.ORANGE)
    return shades


def draw_data(axes: Axes, images: Tensor, colour: str = style.GREY) -> None:
    """Draw points as small faint dots."""
    xy = coordinates(images)
    xy = xy[spaced_indices(len(xy))]
    axes.scatter(xy[:, 0], xy[:, 1], s=4, color=colour, alpha=0.35, linewidths=0, zorder=2)


def coordinates(images: Tensor) -> np.ndarray:
    """Return images [N, C, H, W] of two values as points [N, 2]."""
    return images.detach().float().cpu().numpy().reshape(-1, 2)


def spaced_indices(n: int) -> np.ndarray:
    """Return at most MAX_POINTS evenly spaced indices below n; the first ones might all be of one class."""
    return np.linspace(0, n - 1, min(n, MAX_POINTS)).round().astype(int)


def make_panels(panels: int, title: str, bars: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of square panels side by side, optionally with space for colour bars."""
    size = (4.9 if bars else 4.2) * panels, 4.7
    figure = Figure(figsize=size, dpi=style.DPI, layout="constrained")
    figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def format_panel(axes: Axes, title: str = "") -> None:
    """Set a panel's limits to the unit square, with equal scales, title and axis names."""
    style.dress(axes, title, style.LABEL + 1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    style.name_axes(axes, "first value", "second value")


def colour_bar(figure: Figure, axes: Axes, drawn: ScalarMappable, name: str) -> None:
    """Add a colour bar to a panel."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(name, fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.SMALL, color=style.GREY, labelcolor=style.INK)
    bar.outline.set_visible(False)
