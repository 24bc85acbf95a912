"""A classifier. Its features are used to evaluate the samples of other models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Mean, Model, Stage
from aectl.models.networks import Shape
from aectl.parallel import average, count
from aectl.rng import Rng


class Classifier(Model):
    """Classifier of images: min -Σ_c q_c log p_c, p = softmax(W f(Ñ(x)) + b).

    f is the encoder; its codes are the features in which distances between sets of images are measured. Ñ is a
    corruption that keeps the class. q is the one-hot class, mixed with the uniform distribution by `smoothing`
    (Szegedy et al. 2016). Images without a label do not contribute.

    Raises ValueError for fewer than two classes or a smoothing outside [0, 1).
    """

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("error", "share of labelled images classified wrongly", "lower"),)
    objective = "val/error"
    loss_unit = "nats"

    def __init__(
        self,
        shape: Shape,
        classes: int,
        code: int,
        encoder: Callable[..., nn.Module],
        *,
        noise: nn.Module | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), not {smoothing}")
        self.code, self.smoothing, self.noise = code, smoothing, noise
        self.encoder = encoder(shape=shape, code=code)
        self.head = class_layer(code, classes)

    def encode(self, x: Tensor) -> Tensor:
        """Return the features f(x), [N, code]."""
        return self.encoder(x)

    def classify(self, x: Tensor) -> Tensor:
        """Return class logits [N, classes] for images [N, C, H, W]."""
        return self.head(self.encoder(x))

    def classify_codes(self, z: Tensor) -> Tensor:
        """Return class logits [N, classes] for features [N, code]."""
        return self.head(z)

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        logits = self.classify(batch.x if self.noise is None else self.noise(batch.x, rng)).float()
        loss = cross_entropy(logits, batch.y, self.smoothing)
        yield Loss(loss, metrics={"error": error(logits, batch.y)})

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor | Mean]:
        logits = self.classify(batch.x).float()
        measured = {"loss": cross_entropy(logits, batch.y), "error": error(logits, batch.y)}
        return {name: mean_over_labelled(value, batch.y) for name, value in measured.items()}


def class_layer(code: int, classes: int) -> nn.Linear:
    """Return the linear layer from codes to class logits; raises ValueError for fewer than two classes."""
    if classes < 2:
        raise ValueError(f"a classifier needs images of at least 2 classes, not {classes}")
    return nn.Linear(code, classes)


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean -log p(y|x) in nats over labelled images (y ≥ 0); 0 if there are none."""
    total = F.cross_entropy(logits, y, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
    return total / count_labelled(y)


def error(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of labelled images (y ≥ 0) that are misclassified; 0 if there are none."""
    labelled = y >= 0
    return ((logits.argmax(1) != y) & labelled).float().sum() / count_labelled(y)


def count_labelled(y: Tensor) -> Tensor:
    """Return the number of labelled images (y ≥ 0), averaged over the processes that share the batch; never 0."""
    return average((y >= 0).sum().float()).clamp_min(1 / count())


def mean_over_labelled(value: Tensor, y: Tensor) -> Mean:
    """Wrap a mean over the labelled images of a batch with their count."""
    return Mean(value, int((y >= 0).sum()))
