"""Which classes samples fall into, by the nearest training image: a collapsed generator leaves some out."""

from __future__ import annotations

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.reconstruction import Row

SAMPLES = 10_000
"""Samples that a class's share is estimated from: its standard error is then at most half a percent."""
CHUNK = 500
"""Samples at a time: one row of distances for each."""


def nearest_classes(images: Tensor, train: Source) -> Tensor:
    """Return the class [N] of the training image nearest to each image [N, C, H, W], in Euclidean distance."""
    train = train.take((train.labels >= 0).nonzero().squeeze(1))
    reference = train.pixels().flatten(1)
    squares = reference.square().sum(1)
    # ‖a - b‖² without ‖a‖², which is the same for all b.
    nearest = [(squares - 2 * part @ reference.T).argmin(1) for part in images.flatten(1).split(CHUNK)]
    return train.labels[torch.cat(nearest)]


def class_shares(images: Tensor, train: Source) -> Row:
    """Return the share of each class among images, in percent, and the smallest of them."""
    counts = torch.bincount(nearest_classes(images, train), minlength=train.classes)
    shares = (100 * counts / len(images)).tolist()
    present = train.labels.unique().tolist()
    row = {f"class_{label}": share for label, share in enumerate(shares)}
    return {**row, "smallest": min(row[f"class_{label}"] for label in present if label >= 0)}
