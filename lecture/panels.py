"""Panels that the lecture's figures are put together from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import codes, image_grids, style

SHOWN = 4000
"""Points of a plane of codes: more would hide each other."""
CUT = 0.01
"""Share of the points beyond each side of a plane, lest a few that lie far off take all its room."""


def page(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure of `width` × `height` inches that arranges its panels by itself."""
    figure = Figure(figsize=(width, height), dpi=style.DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=style.TITLE + 1, color=style.INK, x=0.01, ha="left")
    return figure


def tiles(
    axes: Axes,
    pictures: Tensor,
    title: str = "",
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    size: float = style.LABEL,
) -> None:
    """Show images [rows, columns, C, H, W] as a sheet, with names beside its rows and below its columns."""
    axes.imshow(image_grids.mosaic(pictures), aspect="equal", interpolation="nearest")
    image_grids.hide_axes(axes)
    axes.set_yticks(image_grids.centres(pictures, 0)[: len(rows)], list(rows))
    if columns:
        axes.set_xticks(image_grids.centres(pictures, 1), list(columns))
    axes.tick_params(labelsize=size)
    axes.set_title(title, fontsize=style.TITLE, color=style.INK, loc="left")


def grid(pictures: Tensor, columns: int) -> Tensor:
    """Return images [N, C, H, W] in rows, [rows, columns, C, H, W], without a last row that is not full."""
    rows = len(pictures) // columns
    return pictures[: rows * columns].unflatten(0, (rows, columns))


def one_of_each(source: Source, which: int = 0) -> Tensor:
    """Return the positions [classes] of one image of each class, the same for the same `which`."""
    found = [(source.labels == c).nonzero().squeeze(1) for c in range(source.classes)]
    return torch.stack([places[which % len(places)] for places in found if len(places)])


def planar(
    axes: Axes, points: Tensor, labels: Tensor, title: str, names: tuple[str, str], *, legend: bool = False
) -> None:
    """Show codes [N, 2] as points, a colour and a shape for each class, and each class's number at its median."""
    style.dress(axes, title)
    shown = points[:SHOWN].numpy()
    codes.scatter(axes, shown, labels[:SHOWN].numpy())
    if not legend:
        axes.get_legend().remove()
    low, high = np.quantile(shown, (CUT, 1 - CUT), axis=0)
    margin = 0.04 * (high - low)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    style.name_axes(axes, *names)
