"""A model's own metrics over a held-out source."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from aectl.data.datasets import Source
from aectl.models.base import Batch, Model
from aectl.rng import Rng
from aectl.training.model_checks import check_metrics

BATCH = 500
"""Images at a time: part of the protocol, since a metric such as the energy distance is a mean over batches."""


def batches(source: Source, size: int = BATCH) -> Iterator[Batch]:
    """Yield the whole source in order."""
    for indices in torch.arange(len(source), device=source.images.device).split(size):
        yield source.batch(indices)


@torch.no_grad()
def validate(model: Model, source: Source, rng: Rng) -> dict[str, float]:
    """Return the mean over `source` of each metric of `model.validate`, in evaluation mode.

    A mean over some of the images counts for as many; one over none at all is left out.
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
