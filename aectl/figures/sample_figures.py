"""The figures of `aectl sample`, by the layout of their kind."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.figure import Figure
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import animation, examples, image_grids, planar_report
from aectl.sampling.kind import Layout

SHOWN = 20
"""Reconstructions in a figure: a longer row could not be read."""
MOST = 400
"""Images in a grid: of more one would see little, and wait long for the page."""


def figure(layout: Layout | None, arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Return the figure of arrays that a kind of picture made: images, or points if those of `source` are planar."""
    layout = layout or ("grid" if arrays["images"].dim() == 4 else "rows")
    if layout in planar_report.LAYOUTS and examples.is_planar(source.shape):
        return planar_report.LAYOUTS[layout](arrays, source, title)
    return LAYOUTS[layout](arrays, title)


def grid(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `images` [n, C, H, W], the first of many, in as many rows as columns."""
    drawn = arrays["images"]
    note = f" (the first {MOST} of {len(drawn):,})" if len(drawn) > MOST else ""
    return image_grids.image_grid(drawn[:MOST], math.isqrt(min(len(drawn), MOST)), title + note)


def reconstruction(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `x`, `noisy` if there is such, and `x_hat`, each [n, C, H, W], below one another."""
    shown = {key: value[:SHOWN] for key, value in arrays.items()}
    return image_grids.reconstructions(shown["x"], shown.get("noisy"), shown["x_hat"], title)


LAYOUTS: dict[Layout, Callable[[dict[str, Tensor], str], Figure]] = {
    "grid": grid,
    "rows": lambda arrays, title: image_grids.sheet(arrays["images"], title),
    "reconstructions": reconstruction,
    "interpolations": lambda arrays, title: image_grids.interpolations(arrays["images"], title),
    "traversals": lambda arrays, title: image_grids.traversals(**arrays, title=title),
    "manifold": lambda arrays, title: image_grids.manifold_grid(**arrays, title=title),
    "chains": lambda arrays, title: image_grids.chains(**arrays, title=title),
    "strip": lambda arrays, title: animation.strip(arrays, title),
}
"""The figure of images by the layout that a kind names."""
