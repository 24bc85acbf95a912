"""Grids of images: reconstructions, samples, interpolations, filters and the plane of two-dimensional codes.

Images are tensors [..., C, H, W] with C = 1 or 3 and pixels in [0, 1]; other values are clipped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from aectl.figures import examples, style
from aectl.system.terminal import format_significant

TILE = 84
"""Approximate side of a small image in pixels, after enlarging by an integer factor."""
LEFT, RIGHT, TOP, BOTTOM = 0.15, 0.15, 0.4, 0.15
"""Margins in inches."""
NARROWEST = 4.2
"""Smallest width of a figure in inches, so that the title fits."""
LINE, CHARACTER, SMALLER = 0.2, 0.084, 0.072
"""Inches: height of a line of the title, approximate width of a character of the title, and of a label."""


def reconstructions(x: Tensor, noisy: Tensor | None, xhat: Tensor, title: str) -> Figure:
    """Show images x [N, C, H, W], corrupted images if any, and reconstructions, one kind per row."""
    rows = {"input": x, "noisy": noisy, "reconstruction": xhat}
    present = {label: images for label, images in rows.items() if images is not None}
    return sheet(torch.stack(list(present.values())), title, labels=list(present))


def image_grid(images: Tensor, rows: int, title: str) -> Figure:
    """Show images [N, C, H, W] in `rows` rows; missing images of the last row are white."""
    columns = -(-len(images) // rows)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    return sheet(torch.cat([images, blank]).view(rows, columns, *images.shape[1:]), title)


def ranked_samples(images: Tensor, scores: Tensor, title: str, columns: int = 10, rows: int = 3) -> Figure:
    """Show the images [N, C, H, W] with the highest scores [N], the first ones, and those with the lowest scores.

    Each of the three parts has up to `rows` rows, from higher to lower scores in the first and the last.
    """
    columns = min(columns, len(images))
    shown = columns * min(rows, len(images) // columns)
    order = scores.argsort(descending=True)
    parts = {"highest": order[:shown], "random": torch.arange(shown, device=order.device), "lowest": order[-shown:]}
    labels = []
    for name, chosen in parts.items():
        low, high = (format_significant(float(end)) for end in (scores[chosen].min(), scores[chosen].max()))
        labels += [f"{name}\n{high} … {low}", *[""] * (shown // columns - 1)]
    return sheet(images[torch.cat([*parts.values()])].unflatten(0, (-1, columns)), title, labels=labels)


def interpolations(images: Tensor, title: str) -> Figure:
    """Show interpolations [rows, steps, C, H, W], one per row, with relative positions below the columns."""
    steps = images.shape[1]
    figure = sheet(images, title, bottom=0.4)
    (axes,) = figure.axes
    axes.set_xticks(centres(images, 1), [f"{i / max(steps - 1, 1):.2g}" for i in range(steps)])
    axes.set_xlabel("relative position between the two codes", fontsize=style.LABEL, color=style.INK)
    return figure


def traversals(images: Tensor, codes: Tensor, units: Tensor, title: str) -> Figure:
    """Show images [rows, steps, C, H, W] of codes [rows, steps, code]; row i varies only the code unit `units[i]`."""
    rows = torch.arange(len(units))
    ends = codes[rows, 0, units].tolist(), codes[rows, -1, units].tolist()
    labels = [f"unit {unit}\n{low:.2g} … {high:.2g}" for unit, low, high in zip(units.tolist(), *ends, strict=True)]
    figure = sheet(images, title, labels=labels, bottom=0.4)
    (axes,) = figure.axes
    axes.set_xlabel("even steps between the two values of the row", fontsize=style.LABEL, color=style.INK)
    return figure


def chains(images: Tensor, steps: Tensor, title: str) -> Figure:
    """Show Markov chains, one per row, as images [rows, states, C, H, W] after the numbers of steps [states]."""
    figure = sheet(images, title, bottom=0.4)
    (axes,) = figure.axes
    axes.set_xticks(centres(images, 1), [str(step) for step in steps.tolist()])
    axes.set_xlabel("steps", fontsize=style.LABEL, color=style.INK)
    return figure


def filters(model: nn.Module, shape: tuple[int, int, int]) -> Figure | None:
    """Show the weights of up to 100 units of a dense first layer; None if the first layer is not dense."""
    tiles = examples.filter_tiles(model, shape)
    if tiles is None:
        return None
    layer = cast("nn.Linear", examples.pixel_layer(model, tiles[0].numel()))
    title = f"First layer: weights of {len(tiles)} of {layer.out_features} units (grey 0, white +, black -)"
    return image_grid(tiles, -(-len(tiles) // 10), title)


def manifold_grid(images: Tensor, codes: Tensor, title: str) -> Figure:
    """Show images [rows, columns, C, H, W] decoded from a grid of two-dimensional codes [rows, columns, 2].

    The first coordinate of the codes increases to the right, the second upwards.
    """
    across, up = codes[0, :, 0].cpu(), codes[:, 0, 1].flip(0).cpu()
    figure = sheet(images, title, left=0.7, bottom=0.5)
    (axes,) = figure.axes
    for axis, values, places in (
        (axes.xaxis, across, centres(images, 1)),
        (axes.yaxis, up, centres(images, 0)[::-1]),
    ):
        numbers = values.double().numpy().round(6) + 0.0
        # Five labels including both ends; a label for each image would not fit.
        chosen = np.unique(np.linspace(0, len(numbers) - 1, 5).round().astype(int))
        axis.set_ticks(places[chosen], [f"{numbers[i]:.2g}" for i in chosen])
    axes.tick_params(length=3, labelsize=style.SMALL)
    style.name_axes(axes, "first coordinate of the code", "second coordinate")
    return figure


def sheet(
    images: Tensor,
    title: str,
    *,
    labels: Sequence[str] = (),
    left: float = LEFT,
    bottom: float = BOTTOM,
) -> Figure:
    """Show images [rows, columns, C, H, W], optionally with a label in front of each row.

    A long title is wrapped. `left` and `bottom` are margins in inches. The layout is computed by hand, so that each
    image is enlarged by an integer factor and all gaps have the same width.
    """
    pixels = mosaic(images)
    factor = max(1, round(TILE / (images.shape[-1] + gap(images))))
    if labels:
        left = max(1.1, 2 * LEFT + SMALLER * max(len(line) for label in labels for line in label.splitlines()))
    height, width = (side * factor / style.DPI for side in pixels.shape[:2])
    across = max(left + width + RIGHT, NARROWEST)
    letters = int((across - LEFT - RIGHT) / CHARACTER)
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, letters)]
    page = across, TOP + LINE * (len(lines) - 1) + height + bottom
    figure = Figure(figsize=page, dpi=style.DPI)
    axes = figure.add_axes((left / page[0], bottom / page[1], width / page[0], height / page[1]))
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    hide_axes(axes)
    axes.set_yticks(centres(images, 0)[: len(labels)], list(labels))
    figure.text(LEFT / page[0], 1 - 0.12 / page[1], "\n".join(lines), fontsize=style.TITLE, color=style.INK, va="top")
    return figure


def hide_axes(axes: Axes) -> None:
    """Remove frame and ticks of a panel, and set the style of its labels."""
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=style.LABEL, labelcolor=style.INK)


def gap(images: Tensor) -> int:
    """Return the gap between two images in pixels."""
    return max(1, images.shape[-1] // 14)


def centres(images: Tensor, axis: int) -> np.ndarray:
    """Return the centres of the rows (axis 0) or columns (axis 1) of `images` in their mosaic, in pixels."""
    count, side = images.shape[axis], images.shape[3 + axis]
    return np.arange(count) * (side + gap(images)) + (side - 1) / 2


def mosaic(images: Tensor) -> np.ndarray:
    """Return images [rows, columns, C, H, W] as one image [H′, W′, 3] with white gaps."""
    rows, columns, channels, height, width = images.shape
    space = gap(images)
    page = np.ones((rows * (height + space), columns * (width + space), 3), dtype=np.float32)
    pixels = images.detach().float().clamp(0, 1).cpu().permute(0, 3, 1, 4, 2)
    cells = page.reshape(rows, height + space, columns, width + space, 3)
    cells[:, :height, :, :width] = pixels.expand(-1, -1, -1, -1, 3) if channels == 1 else pixels
    return page[:-space, :-space]
