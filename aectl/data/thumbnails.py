"""Downscale images for display."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

LARGEST_SIDE = 128
"""Maximum length in pixels of the longer side of an image in TensorBoard."""


def thumbnail_shape(shape: Sequence[int], side: int = LARGEST_SIDE) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of an image scaled down so that its longer side has at most `side` pixels."""
    channels, height, width = shape
    scale = min(1.0, side / max(height, width))
    return channels, max(1, round(scale * height)), max(1, round(scale * width))


def shrink(images: Tensor, side: int = LARGEST_SIDE) -> Tensor:
    """Return images [N, C, H, W] downscaled to `thumbnail_shape` by averaging; small images stay as they are."""
    size = thumbnail_shape(images.shape[1:], side)[1:]
    return images if size == tuple(images.shape[2:]) else functional.interpolate(images, size=size, mode="area")
