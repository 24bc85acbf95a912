"""Baselines without training, evaluated on the validation images: mean image, independent pixels, majority class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from aectl.models.base import Classifies, Normalises, Reconstructs
from aectl.training.validation import batches

if TYPE_CHECKING:
    from aectl.training.trainer import Trainer


class Baseline(NamedTuple):
    """A baseline's value of one of the model's metrics; lower is better."""

    metric: str
    name: str
    value: float


def compute_baselines(trainer: Trainer) -> list[Baseline]:
    """Return the baselines that apply to the model's abilities.

    They are fitted to the training images and evaluated on the validation images; without validation images, returns
    an empty list.
    """
    model, train, valid = trainer.model, trainer.train_source, trainer.valid_source
    if not len(valid):
        return []
    found = []
    if isinstance(model, Reconstructs) and model.learns_to_reconstruct:
        mean = sum(batch.x.sum(0) for batch in batches(train)) / len(train)
        error = sum(float((batch.x - mean).square().flatten(1).mean(1).sum()) for batch in batches(valid))
        found.append(Baseline("val/mse", "the mean image", error / len(valid)))
    if model.nll_metric:
        found.append(Baseline(model.nll_metric, "independent pixels", independent_pixels_nll(trainer)))
    if isinstance(model, Classifies) and bool((train.labels >= 0).any()) and bool((valid.labels >= 0).any()):
        frequent = train.labels[train.labels >= 0].mode().values
        error = float((valid.labels[valid.labels >= 0] != frequent).float().mean())
        found.append(Baseline("val/error", "the most frequent class", error))
    return found


@torch.no_grad()
def independent_pixels_nll(trainer: Trainer) -> float:
    """Return the mean -log p(x) of the held-out images in nats under independent Bernoulli pixels.

    Each pixel's probability is its frequency in the training images. A grey pixel counts as the expectation over its
    binarisations.
    """
    model, rng = trainer.model, trainer.held_out.fork("baselines")

    def observe(x: torch.Tensor) -> torch.Tensor:
        return model.observe(x, rng) if isinstance(model, Normalises) else x

    train, valid = trainer.train_source, trainer.valid_source
    ones = torch.stack([observe(batch.x).double().sum(0) for batch in batches(train)]).sum(0)
    # Laplace smoothing: a pixel that is always 0 in training may be 1 in a held-out image.
    frequency = (ones + 1) / (len(train) + 2)
    total = 0.0
    for batch in batches(valid):
        x = observe(batch.x).double()
        total += float(F.binary_cross_entropy(frequency.expand_as(x), x, reduction="sum"))
    return total / len(valid)


@torch.no_grad()
def reconstruction_mse(trainer: Trainer) -> float:
    """Return the MSE per pixel of the reconstructed held-out images, NaN for a model that does not reconstruct."""
    model = trainer.model
    if not isinstance(model, Reconstructs):
        return math.nan
    was_training = model.training
    model.eval()
    total = sum(
        float((model.reconstruct(batch.x).float() - batch.x).square().flatten(1).mean(1).sum())
        for batch in batches(trainer.valid_source)
    )
    model.train(was_training)
    return total / len(trainer.valid_source)


def compute_metric(trainer: Trainer, metrics: Mapping[str, float], metric: str) -> float:
    """Return a metric of an epoch, NaN if it is missing; `val/mse` is computed if the model does not report it."""
    if metric not in metrics and metric == "val/mse":
        return reconstruction_mse(trainer)
    return metrics.get(metric, math.nan)
