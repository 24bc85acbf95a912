"""The training image nearest to an image: what class it has, and whether it was copied."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 500
"""Images at a time: one row of distances for each."""


def nearest(images: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distance [N] of images [N, …] to the nearest of `reference` [M, …], and its position [N]."""
    images, reference = images.flatten(1), reference.flatten(1)
    squares = reference.square().sum(1)
    # ‖a - b‖² without ‖a‖², which is the same for all b.
    found = [torch.addmm(squares, part, reference.T, alpha=-2).argmin(1) for part in images.split(CHUNK)]
    # Of the one found, the distance itself: the difference of large numbers would not be 0 for a copy.
    distances = [(a - reference[i]).norm(dim=1) for a, i in zip(images.split(CHUNK), found, strict=True)]
    return torch.cat(distances), torch.cat(found)
