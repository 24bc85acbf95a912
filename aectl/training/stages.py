"""The stage of each epoch, and checks of its batches."""

from __future__ import annotations

from collections.abc import Sequence

from aectl import parallel
from aectl.models.base import Stage


def stage_at(plan: Sequence[tuple[Stage, int]], epoch: int) -> tuple[Stage, int, int]:
    """Return the stage of an epoch (from 0), its first epoch and its end; `plan` has the stages and their epochs."""
    first = 0
    for stage, length in plan[:-1]:
        if epoch < first + length:
            return stage, first, first + length
        first += length
    stage, length = plan[-1]
    return stage, first, first + length


def check_batches(stage: Stage, images: int, batch_size: int) -> None:
    """Raise ValueError if a stage has no labelled images, fewer than a batch, or an indivisible batch."""
    if stage.labelled and not images:
        raise ValueError(f"dataset: stage '{stage.name}' needs training images with labels, and there are none")
    if not stage.labelled and batch_size > images:
        raise ValueError(f"batch_size must be at most the {images} training images, not {batch_size}")
    if (batch := min(batch_size, images)) % parallel.count():
        raise ValueError(f"batch_size: {parallel.count()} processes cannot share {batch} images evenly")
