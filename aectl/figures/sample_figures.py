"""Figures of `aectl sample`, by the layout of the kind."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.figure import Figure
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import animation, examples, image_grids, planar_report
from aectl.sampling.kind import Layout

SHOWN = 20
"""Largest number of reconstructions in a row."""
MOST = 400
"""Largest number of images in a grid."""


def figure(layout: Layout | None, arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Return the figure of the arrays of a kind: images, or points if the images of `source` are planar."""
    layout = layout or ("grid" if arrays["images"].dim() == 4 else "rows")
    if layout in planar_report.LAYOUTS and examples.is_planar(source.shape):
        return planar_report.LAYOUTS[layout](arrays, source, title)
    return LAYOUTS[layout](arrays, title)


def grid(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show the first `images` [n, C, H, W] in a square grid."""
    drawn = arrays["images"]
    note = f" (the first {MOST} of {len(drawn):,})" if len(drawn) > MOST else ""
    return image_grids.image_grid(drawn[:MOST], math.isqrt(min(len(drawn), MOST)), title + note)


def reconstruction(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `x`, `noisy` if present, and `x_hat`, each [n, C, H, W], one per row."""
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
    "strip": lambda arrays, title: animation.draw_strip(arrays, title),
}
"""Functions that draw images, by the layout of a kind."""
