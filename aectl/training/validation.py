"""A model's validation metrics on a held-out source."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aectl.data.datasets import Source
from aectl.models.base import Batch, Model
from aectl.rng import Rng
from aectl.training.model_checks import check_metrics

BATCH_SIZE = 500
"""Images per batch, which metrics such as the energy distance depend on, since they are means over batches."""


def batches(source: Source, size: int = BATCH_SIZE) -> Iterator[Batch]:
    """Yield all images of a source in order."""
    for indices in source.positions().split(size):
        yield source.batch(indices)


@torch.no_grad()
def validate(model: Model, source: Source, rng: Rng) -> dict[str, float]:
    """Return the mean of each metric of `model.validate` over the images of `source`, in evaluation mode.

    A `Mean` counts for its number of images; metrics over no image at all are left out.
    """
    was_training = model.training
    model.eval()
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    for batch in batches(source):
        for name, (value, over) in check_metrics(model, model.validate(batch, rng)).items():
            count = len(batch.x) if over is None else over
            sums[name] = sums.get(name, 0.0) + value.detach().float() * count
            counts[name] = counts.get(name, 0) + count
    model.train(was_training)
    return {name: float(total) / counts[name] for name, total in sums.items() if counts[name]}
