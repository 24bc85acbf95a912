"""A classifier with a reconstruction loss, so that it also learns from unlabelled images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Mean, Stage
from aectl.models.classifier import Classifier, cross_entropy, error, mean_over_labelled
from aectl.models.networks import Shape
from aectl.rng import Rng


class Coupled(Classifier):
    """Classifier and autoencoder that share an encoder: min -log p(y|x̃) + λ ‖x - g(f(x̃))‖².

    f is the shared encoder, g the decoder followed by the sigmoid, x̃ = Ñ(x) the corrupted image, λ the `weight`. The
    first term is a mean over the labelled images of a batch. The second is summed over pixels and averaged over all
    images, labelled or not. With λ = 0 the model equals `Classifier` to the bit.

    A batch without labels has no first term. If a share s of the images is labelled, the term is present in
    1 - (1 - s)^N of the steps, so fewer labels give λ more weight. Images are [N, C, H, W], pixels in [0, 1]; codes are
    [N, code].

    Raises ValueError for a negative weight, and as `Classifier` does. Source: lecture, "Autoencoders"; Ranzato &
    Szummer 2008.
    """

    metrics: ClassVar = (
        Metric("classification", "cross-entropy of the classes", unit="nats per labelled image"),
        Metric("reconstruction", "reconstruction term of the loss, summed over pixels, mean over images", "lower"),
    )
    metric_settings: ClassVar = {"loss": ("weight",)}
    weight: Tensor

    def __init__(
        self,
        shape: Shape,
        classes: int,
        code: int,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        *,
        weight: float = 0.1,
        noise: nn.Module | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__(shape, classes, code, encoder, noise=noise, smoothing=smoothing)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be a finite number ≥ 0, not {weight}")
        # Created after the classifier's parts, which then start from the same random weights as a plain Classifier.
        self.decoder = decoder(shape=shape, code=code)
        self.register_buffer("weight", torch.tensor(float(weight)), persistent=False)
        # With λ = 0 the decoder gets no gradients at all; zero gradients would still enter gradient norms.
        self.loss_unit = "" if weight > 0 else "nats"
        self.is_coupled = self.learns_to_reconstruct = weight > 0

    def decode(self, z: Tensor) -> Tensor:
        """Return the images g(z), [N, C, H, W] in [0, 1]."""
        return self.decoder(z).sigmoid()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return x̂ = g(f(x)), [N, C, H, W] in [0, 1]."""
        return self.decode(self.encode(x))

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        seen = batch.x if self.noise is None else self.noise(batch.x, rng)
        terms = self.terms(batch, seen, self.smoothing)
        yield Loss(terms.pop("loss"), metrics=terms)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor | Mean]:
        terms = self.terms(batch, batch.x)
        named = {name: mean_over_labelled(terms[name], batch.y) for name in ("classification", "error")}
        return {**terms, **named, "mse": terms["reconstruction"] / batch.x[0].numel()}

    def terms(self, batch: Batch, seen: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        """Return the loss, its two terms and the error; `seen` is the corrupted input of the encoder."""
        h = self.encode(seen)
        logits = self.head(h).float()
        classification = cross_entropy(logits, batch.y, smoothing)
        reconstruction = F.mse_loss(self.decode(h).float(), batch.x, reduction="sum") / len(batch.x)
        return {
            "loss": classification + self.weight * reconstruction if self.is_coupled else classification,
            "classification": classification,
            "reconstruction": reconstruction,
            "error": error(logits, batch.y),
        }
