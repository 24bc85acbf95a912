"""The figure of each kind of picture that `aectl sample` makes."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.figure import Figure
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import animation, examples, image_grids, planar_report

SHOWN = 20
"""Reconstructions in a figure: a longer row could not be read."""
MOST = 400
"""Images in a grid: of more one would see little, and wait long for the page."""


def figure(kind: str, arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Return the figure of what was made as `kind` of the images of `source`: sheets of images, or points if planar."""
    if kind in planar_report.FIGURES and examples.is_planar(source.shape):
        return planar_report.FIGURES[kind](arrays, source, title)
    return FIGURES[kind](arrays, title)


def grid(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `images` [n, C, H, W], the first of many, in as many rows as columns."""
    drawn = arrays["images"]
    note = f" (the first {MOST} of {len(drawn):,})" if len(drawn) > MOST else ""
    return image_grids.image_grid(drawn[:MOST], math.isqrt(min(len(drawn), MOST)), title + note)


def reconstruction(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `x`, `noisy` if there is such, and `x_hat`, each [n, C, H, W], below one another."""
    shown = {key: value[:SHOWN] for key, value in arrays.items()}
    return image_grids.reconstructions(shown["x"], shown.get("noisy"), shown["x_hat"], title)


FIGURES: dict[str, Callable[[dict[str, Tensor], str], Figure]] = {
    "prior": grid,
    "density": grid,
    "reconstruction": reconstruction,
    "interpolation": lambda arrays, title: image_grids.interpolations(arrays["images"], title),
    "traversal": lambda arrays, title: image_grids.traversals(**arrays, title=title),
    "manifold": lambda arrays, title: image_grids.manifold_grid(**arrays, title=title),
    "chain": lambda arrays, title: image_grids.chains(**arrays, title=title),
    "training": lambda arrays, title: animation.strip(arrays, title),
}
"""By the kind's name in `aectl.sampling.KINDS`."""
