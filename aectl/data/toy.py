"""Toy data: points of the plane near a curve or in clusters, so that the data manifold can be plotted.

A point (x, y) is an image [1, 1, 2] with pixels x and y, so it can be used with every model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from aectl.data.datasets import Dataset, Source, count_held_out, dataset, split_by_position
from aectl.rng import Rng

REACH = 0.36
"""Half-width of the curve in the unit square; the margin around it is for points off the curve."""
MAX_SPREAD = 0.05
"""Largest spread, at which fewer than one point in 200 lies outside the square and is clipped."""
MODES = 8
"""Number of Gaussians on the ring."""
SPIRAL = (0.5 * math.pi, 4 * math.pi)
"""Angles in radians at which the spiral starts and ends."""


def spiral(u: Tensor) -> Tensor:
    """Return points [N, 2] of an Archimedean spiral, radius ∝ angle, for u [N] in [0, 1).

    The squared angle is linear in u, so points are about evenly spaced along the curve except near the centre.
    """
    start, end = SPIRAL
    angle = (start**2 + (end**2 - start**2) * u).sqrt()
    return angle[:, None] / end * torch.stack([angle.cos(), angle.sin()], 1)


def moons(u: Tensor) -> Tensor:
    """Return points [N, 2] of two interleaved half circles for u [N] in [0, 1): the upper one for u < ½."""
    angle = 2 * math.pi * u % math.pi
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    both = torch.where((u < 0.5)[:, None], upper, torch.tensor([1.0, 0.5]) - upper)
    return (both - torch.tensor([0.5, 0.25])) / 1.5


def circle(u: Tensor) -> Tensor:
    """Return points [N, 2] of the unit circle for u [N] in [0, 1)."""
    angle = 2 * math.pi * u
    return torch.stack([angle.cos(), angle.sin()], 1)


def ring(u: Tensor) -> Tensor:
    """Return points [N, 2], each one of MODES evenly spaced points of the unit circle, for u [N] in [0, 1).

    With spread they form a mixture of Gaussians, a common test for GANs, which tend to miss some of the modes (Metz et
    al. 2017, "Unrolled GANs").
    """
    return circle((MODES * u).floor() / MODES)


CURVES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "spiral": (spiral, 3),
    "moons": (moons, 2),
    "circle": (circle, 3),
}
"""For each kind: the curve in [-1, 1]², and the number of classes, equal parts along it."""


Kind = Literal["spiral", "moons", "circle", "gaussians"]
KINDS = {**CURVES, "gaussians": (ring, MODES)}
"""CURVES and the ring, whose classes are its points."""


def curve(kind: str, u: Tensor) -> Tensor:
    """Return points [N, 2] in the unit square at relative positions u [N] in [0, 1) along a curve.

    Raises ValueError for an unknown kind.
    """
    check_kind(kind)
    return 0.5 + REACH * KINDS[kind][0](u)


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is in KINDS."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not '{kind}'")


@dataset
def toy(
    kind: Kind = "spiral",
    points: int = 10_000,
    spread: float = 0.01,
    valid: float = 1000,
    test: float = 2000,
    seed: int = 0,
    exclude: Sequence[int] = (),
) -> Dataset:
    """Return points in the unit square near a `spiral`, two `moons` or a `circle`, or of 8 `gaussians` on a ring.

    x = c(u) + s ε, ε ~ N(0, I), u uniform on [0, 1), s the `spread` in units of the square's side. The classes are the
    two moons, the 8 Gaussians, or thirds of the curve. `valid` and `test` are counts, or shares of the points if < 1.
    The points depend on `seed`, not on the run's seed. Raises ValueError for an unknown kind or an argument out of
    range.
    """
    check_kind(kind)
    if points < 3:
        raise ValueError(f"points must be at least 3, not {points}")
    if not 0 <= spread <= MAX_SPREAD:
        raise ValueError(f"spread must lie in [0, {MAX_SPREAD}], not {spread}")
    tested = count_held_out("test", test, points, points)
    classes = KINDS[kind][1]

    @cache
    def read(part: str) -> Source:
        rng = Rng(seed).fork("toy", kind)
        u = rng.uniform(points)
        x = (curve(kind, u) + spread * rng.normal(points, 2)).clamp(0, 1)
        whole = Source(x.view(-1, 1, 1, 2), (classes * u).long(), torch.arange(points), 1.0, classes)
        return split_by_position(whole, part, tested)

    kept = count_held_out("valid", valid, points, points - tested)
    return Dataset("toy", (1, 1, 2), classes, read, kept, exclude, is_fixed=True)
