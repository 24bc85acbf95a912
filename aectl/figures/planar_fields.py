"""Figures of planar data, images of two values: points, the field of what a model adds to each, and its energies.

An image with the pixels x and y is drawn as the point (x, y). How two pixels look nobody wants to know; where the
point lies, and where a model moves it, is all there is to see.
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
"""Points along a side of the grid of arrows and of that of the contours, and how many shades these have at most."""
HEIGHT = 20.0
"""Nats above the lowest energy up to which energies are told apart: beyond, points are next to impossible."""
SHOWN = 2000
"""At most so many points of the data are drawn."""
LENGTHS = ListedColormap(colormaps["viridis"](np.linspace(0.85, 0.0, 256)))
"""Colours of arrows: viridis without its yellow end, which is lost on white; the longest are the darkest."""


def displacements(model: Reconstructs, grid: Tensor) -> Tensor:
    """Return g(f(x)) - x, [N, 2], of points that come as images [N, C, H, W] of two values.

    Of a denoising autoencoder that learnt from Gaussian noise of standard deviation σ this is about σ² ∇ log p(x): it
    leads to the data (lecture, "Denoising AEs"; Alain & Bengio 2014).
    """
    return (model.reconstruct(grid) - grid).flatten(1)


def lattice(source: Source, side: int) -> Tensor:
    """Return side² points over the unit square as images [side², C, H, W] like the source's, the lowest row first."""
    steps = torch.linspace(0, 1, side, device=source.images.device)
    return torch.cartesian_prod(steps, steps).flip(1).view(-1, *source.shape)


def vector_field(model: Reconstructs, source: Source, title: str) -> Figure:
    """Show where `model` moves the points of the unit square, and how far, with the points of `source`.

    On the left g(f(x)) - x as arrows; long ones are cut to the distance of two arrows, and the colour has the true
    length. On the right the length alone: the reconstruction error. The source's images must have two values.
    """
    figure, (left, right) = page(2, title, bars=True)
    arrows = draw_arrows(left, model, source)
    dress(left, "g(f(x)) - x, where each point is moved")
    colour_bar(figure, left, arrows, "length of g(f(x)) - x")
    shades = draw_errors(right, model, source)
    dress(right, "‖g(f(x)) - x‖, the reconstruction error")
    colour_bar(figure, right, shades, "reconstruction error")
    return figure


def landscape(model: Energy, source: Source, title: str) -> Figure:
    """Show the energies that `model` gives the unit square, in nats, and exp(-E), with the points of `source`.

    exp(-E) is the density, up to a factor where the energies are not normalised. The source's images must have two
    values.
    """
    figure, (left, right) = page(2, title, bars=True)
    steps = np.linspace(0, 1, CELLS)
    energies = model.energy(lattice(source, CELLS)).float().cpu().numpy().reshape(CELLS, CELLS)
    lowest, highest = energies.min(), max(energies.max(), energies.min() + 1e-3)
    levels = np.linspace(lowest, min(highest, lowest + HEIGHT), LEVELS + 1)
    shades = left.contourf(steps, steps, energies, levels=levels, cmap="Blues_r", extend="max")
    draw_data(left, source.pixels(), style.ORANGE)
    dress(left, "E(x), the energy")
    colour_bar(figure, left, shades, "energy in nats")
    shades = right.contourf(steps, steps, np.exp(lowest - energies) * math.exp(-lowest), levels=LEVELS, cmap="Blues")
    dress(right, "exp(-E(x)), the density up to a factor")
    colour_bar(figure, right, shades, "exp(-E(x))")
    return figure


def points(panels: Mapping[str, Tensor], title: str, labels: Tensor | None = None) -> Figure:
    """Show sets of points, images [N, C, H, W] of two values, side by side under their names.

    The first is the data, which is faint behind the others; points of all panels are coloured by `labels` [N] if
    these are given, -1 for none. At most SHOWN of each are drawn.
    """
    figure, axes = page(len(panels), title)
    data = next(iter(panels.values()))
    for panel, (name, images) in zip(axes, panels.items(), strict=True):
        if images is not data:
            draw_data(panel, data)
        xy = coordinates(images)
        chosen = spaced(len(xy))
        classes = np.full(len(xy), -1) if labels is None else labels.cpu().numpy()
        # Numbers of no class, and classes beyond the palette, take its colours in turn.
        colours = [style.CLASSES[c % len(style.CLASSES)] if c >= 0 else style.BLUE for c in classes[chosen]]
        panel.scatter(xy[chosen, 0], xy[chosen, 1], s=5, c=colours, alpha=0.7, linewidths=0, zorder=3)
        dress(panel, name)
    return figure


def paths(ways: Tensor, source: Source, title: str) -> Figure:
    """Show ways [rows, steps, C, H, W] of decoded points as lines with their ends marked, over the source's points."""
    figure, (axes,) = page(1, title)
    draw_data(axes, source.pixels())
    for i, way in enumerate(coordinates(ways.flatten(0, 1)).reshape(*ways.shape[:2], 2)):
        colour = style.CLASSES[i % len(style.CLASSES)]
        axes.plot(*way.T, color=colour, marker="o", markersize=2.5, linewidth=1.2, zorder=3)
        axes.plot(*way[[0, -1]].T, color=colour, marker="o", markersize=6, linewidth=0, zorder=4)
    dress(axes)
    return figure


def mesh(images: Tensor, source: Source, title: str) -> Figure:
    """Show the plane of codes, decoded on a grid [rows, columns, C, H, W], as the net it becomes among the points."""
    figure, (axes,) = page(1, title)
    draw_data(axes, source.pixels())
    net = coordinates(images.flatten(0, 1)).reshape(*images.shape[:2], 2)
    for lines, colour, name in ((net, style.BLUE, "first"), (net.swapaxes(0, 1), style.ORANGE, "second")):
        for i, line in enumerate(lines):
            label = f"along the {name} coordinate" if i == 0 else None
            axes.plot(*line.T, color=colour, linewidth=0.9, alpha=0.8, label=label, zorder=3)
    axes.legend(fontsize=style.SMALL, frameon=True, framealpha=0.8, edgecolor="none", loc="upper right")
    dress(axes)
    return figure


def rendered(figure: Figure, dpi: float) -> Tensor:
    """Return a figure as an image [3, H, W] in [0, 1]."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).float() / 255


def draw_arrows(axes: Axes, model: Reconstructs, source: Source) -> Quiver:
    """Draw displacements over a grid of `ARROWS`² points, cut to the grid's step, in the colours of their lengths."""
    grid = lattice(source, ARROWS)
    moved = displacements(model, grid).float().cpu().numpy()
    lengths = np.hypot(*moved.T)
    short = moved * np.minimum(1, 1 / (ARROWS - 1) / np.maximum(lengths, 1e-12))[:, None]
    draw_data(axes, source.pixels())
    return axes.quiver(
        *coordinates(grid).T, *short.T, lengths, cmap=LENGTHS, angles="xy", scale_units="xy", scale=1, width=0.0035,
        headwidth=4, headlength=4.5, headaxislength=4, minlength=0.5, zorder=3,
    )  # fmt: skip


def draw_errors(axes: Axes, model: Reconstructs, source: Source) -> QuadContourSet:
    """Draw the lengths of displacements as shaded contours, and the source's points on top."""
    steps = np.linspace(0, 1, CELLS)
    lengths = displacements(model, lattice(source, CELLS)).float().norm(dim=1).cpu().numpy().reshape(CELLS, CELLS)
    shades = axes.contourf(steps, steps, lengths, levels=LEVELS, cmap="Blues")
    draw_data(axes, source.pixels(), style.ORANGE)
    return shades


def draw_data(axes: Axes, images: Tensor, colour: str = style.GREY) -> None:
    """Draw points as small faint dots."""
    xy = coordinates(images)
    xy = xy[spaced(len(xy))]
    axes.scatter(xy[:, 0], xy[:, 1], s=4, color=colour, alpha=0.35, linewidths=0, zorder=2)


def coordinates(images: Tensor) -> np.ndarray:
    """Return images [N, C, H, W] of two values as points [N, 2]."""
    return images.detach().float().cpu().numpy().reshape(-1, 2)


def spaced(n: int) -> np.ndarray:
    """Return at most SHOWN positions below n, evenly spaced: the first ones might be of one class."""
    return np.linspace(0, n - 1, min(n, SHOWN)).round().astype(int)


def page(panels: int, title: str, bars: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of square panels side by side, with room for colour bars if there are any."""
    size = (4.9 if bars else 4.2) * panels, 4.7
    figure = Figure(figsize=size, dpi=style.DPI, layout="constrained")
    figure.suptitle(title, fontsize=style.TITLE, color=style.INK, x=0.01, ha="left")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def dress(axes: Axes, title: str = "") -> None:
    """Show the unit square of a panel, equally scaled, with its axes named."""
    style.dress(axes, title, style.LABEL + 1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    style.name_axes(axes, "first value", "second value")


def colour_bar(figure: Figure, axes: Axes, drawn: ScalarMappable, name: str) -> None:
    """Add a bar that says what the colours of a panel mean."""
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(name, fontsize=style.LABEL, color=style.INK)
    bar.ax.tick_params(labelsize=style.SMALL, color=style.GREY, labelcolor=style.INK)
    bar.outline.set_visible(False)
