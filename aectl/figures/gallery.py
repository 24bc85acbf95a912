"""The figure of each kind of picture that `aectl sample` makes."""

from __future__ import annotations

import math
from collections.abc import Callable

from matplotlib.figure import Figure
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import images, motion, plane, probes

SHOWN = 20
"""Reconstructions in a figure: a longer row could not be read."""
MOST = 400
"""Images in a grid: of more one would see little, and wait long for the page."""


def figure(kind: str, arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Return the figure of what was made as `kind` of the images of `source`: sheets of images, or points if planar."""
    if kind in plane.FIGURES and probes.is_planar(source.shape):
        return plane.FIGURES[kind](arrays, source, title)
    return FIGURES[kind](arrays, title)


def grid(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `images` [n, C, H, W], the first of many, in as many rows as columns."""
    drawn = arrays["images"]
    note = f" (the first {MOST} of {len(drawn):,})" if len(drawn) > MOST else ""
    return images.image_grid(drawn[:MOST], math.isqrt(min(len(drawn), MOST)), title + note)


def reconstruction(arrays: dict[str, Tensor], title: str) -> Figure:
    """Show `x`, `noisy` if there is such, and `x_hat`, each [n, C, H, W], below one another."""
    shown = {key: value[:SHOWN] for key, value in arrays.items()}
    return images.reconstructions(shown["x"], shown.get("noisy"), shown["x_hat"], title)


FIGURES: dict[str, Callable[[dict[str, Tensor], str], Figure]] = {
    "prior": grid,
    "density": grid,
    "reconstruction": reconstruction,
    "interpolation": lambda arrays, title: images.interpolations(arrays["images"], title),
    "traversal": lambda arrays, title: images.traversals(**arrays, title=title),
    "manifold": lambda arrays, title: images.manifold_grid(**arrays, title=title),
    "chain": lambda arrays, title: images.chains(**arrays, title=title),
    "training": lambda arrays, title: motion.strip(arrays, title),
}
"""By the kind's name in `aectl.sampling.KINDS`."""
