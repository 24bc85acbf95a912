"""Points of the plane near a curve or in clusters, as images of two pixels: data whose manifold one can see.

A point (x, y) is an image [1, 1, 2] with the pixels x and y, so that every model takes it as it takes any image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from aectl.data.datasets import Dataset, Source, dataset, held_out, portion
from aectl.rng import Rng

REACH = 0.36
"""Half the side that the curve fills of the unit square; the margin around it is for what lies off the curve."""
WIDEST = 0.05
"""The largest spread: a point beyond the margin, cut to the square, is then rarer than one in 200."""
MODES = 8
"""Normal distributions on the ring."""
SPIRAL = (0.5 * math.pi, 4 * math.pi)
"""The angles, in radians, at which the spiral begins and ends."""


def spiral(u: Tensor) -> Tensor:
    """Return points [N, 2] of an Archimedean spiral, radius ∝ angle, for u [N] in [0, 1).

    The square of the angle grows evenly with u, and so, but near the centre, does the length of the way.
    """
    start, end = SPIRAL
    angle = (start**2 + (end**2 - start**2) * u).sqrt()
    return angle[:, None] / end * torch.stack([angle.cos(), angle.sin()], 1)


def moons(u: Tensor) -> Tensor:
    """Return points [N, 2] of two half circles that reach into each other, for u [N]: the upper for u < ½."""
    angle = 2 * math.pi * u % math.pi
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    both = torch.where((u < 0.5)[:, None], upper, torch.tensor([1.0, 0.5]) - upper)
    return (both - torch.tensor([0.5, 0.25])) / 1.5


def circle(u: Tensor) -> Tensor:
    """Return points [N, 2] of the unit circle, for u [N] in [0, 1)."""
    angle = 2 * math.pi * u
    return torch.stack([angle.cos(), angle.sin()], 1)


def ring(u: Tensor) -> Tensor:
    """Return points [N, 2] that are each one of MODES, evenly spaced on the unit circle, for u [N] in [0, 1).

    With a spread about them they are a mixture of normal distributions, of known density: what adversarial networks
    are tried on, since they tend to miss some of the modes (Metz et al. 2017, "Unrolled GANs").
    """
    return circle((MODES * u).floor() / MODES)


CURVES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "spiral": (spiral, 3),
    "moons": (moons, 2),
    "circle": (circle, 3),
}
"""For each kind: the curve in [-1, 1]², and its classes, equal parts of the way along it."""


Kind = Literal["spiral", "moons", "circle", "gaussians"]
KINDS = {**CURVES, "gaussians": (ring, MODES)}
"""The same with the ring, whose classes are its points."""


def curve(kind: str, u: Tensor) -> Tensor:
    """Return the points [N, 2] of the unit square at u [N] in [0, 1), the share of the way along a kind of curve.

    Raises ValueError for an unknown kind.
    """
    check_kind(kind)
    return 0.5 + REACH * KINDS[kind][0](u)


def check_kind(kind: str) -> None:
    """Raise ValueError, with the choices, unless there are points called `kind`."""
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
    """Return points of the unit square about a `spiral`, two `moons`, a `circle`, or 8 points of one, the `gaussians`.

    x = c(u) + s ε, ε ~ N(0, I), u uniform on [0, 1), s the `spread` in units of the square's side. Classes are the two
    moons, the 8 points, or thirds of the way along the curve. `valid` and `test` are counts, or shares of the points if
    < 1; `seed` is of the points, and no matter of the run's. Raises ValueError for an unknown kind or an argument out
    of range.
    """
    check_kind(kind)
    if points < 3:
        raise ValueError(f"points must be at least 3, not {points}")
    if not 0 <= spread <= WIDEST:
        raise ValueError(f"spread must lie in [0, {WIDEST}], not {spread}")
    tested = held_out("test", test, points, points)
    classes = KINDS[kind][1]

    @cache
    def read(part: str) -> Source:
        rng = Rng(seed).fork("toy", kind)
        u = rng.uniform(points)
        x = (curve(kind, u) + spread * rng.normal(points, 2)).clamp(0, 1)
        whole = Source(x.view(-1, 1, 1, 2), (classes * u).long(), torch.arange(points), 1.0, classes)
        return portion(whole, part, tested)

    kept = held_out("valid", valid, points, points - tested)
    return Dataset("toy", (1, 1, 2), classes, read, kept, exclude, is_fixed=True)
