"""Autoencoders: linear, shallow, undercomplete, overcomplete, sparse, dropout and denoising are one class.

They differ in their YAML alone, and any regulariser combines with any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Stage
from aectl.models.networks import Activation, Encoder, Shape, activation_layer, tie
from aectl.rng import Rng

MOST_DEAD = 0.95
"""Share of dead units from which on a code is said to be dead."""
SAME = 1e-6
"""A unit that moves by no more, relative to its size, tells images not apart: that is how far sums are rounded."""


def dead(h: Tensor) -> Tensor:
    """Return the share of units in codes [N, code] that are the same for all of the images.

    So are those whose largest and least value differ by at most SAME times the larger size: a ReLU that never opens,
    but a sigmoid that is always 1 as well. One image tells of none.
    """
    h = h.flatten(1).float()
    high, low = h.amax(0), h.amin(0)
    if len(h) < 2:
        return torch.zeros((), device=h.device)
    return (high - low <= SAME * torch.maximum(high.abs(), low.abs())).float().mean()


class Autoencoder(Model):
    """Learns to reconstruct its input through a code: min L(x, g(f(Ñ(x)))) + R(f(Ñ(x))).

    f is the encoder, g the decoder followed by the output function, Ñ the corruption (the loss is taken against the
    clean x), R the penalty. L is summed over pixels and averaged over the batch: `mse` is ‖x - x̂‖², `bce` the
    cross-entropy -Σ x log x̂ + (1 - x) log(1 - x̂) in nats, for which the output function is the sigmoid. With
    `code_dropout`, what feeds the code layer is dropped with that probability and rescaled. Images are [N, C, H, W],
    pixels in [0, 1]; codes [N, code].

    Raises ValueError for an unknown loss or output, a dropout outside [0, 1), or weights that cannot be tied.
    Source: lecture, "Autoencoders", "Overcomplete regularized AEs", "Denoising AEs".
    """

    encoder: nn.Module
    decoder: nn.Module
    code_dropout: Tensor
    metrics: ClassVar = (
        Metric("reconstruction", "the loss's term of reconstruction, summed over pixels, a mean over images", "lower"),
        Metric("penalty", "the loss's penalty, a mean over images"),
        Metric("dead", "share of the code's units that are the same for all images"),
    )
    metric_settings: ClassVar = {"loss": ("loss",)}

    def __init__(
        self,
        shape: Shape,
        code: int,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        *,
        loss: Literal["mse", "bce"] = "mse",
        output: Activation = "identity",
        noise: nn.Module | None = None,
        penalty: nn.Module | None = None,
        code_dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if loss not in ("mse", "bce"):
            raise ValueError(f"loss must be mse or bce, not '{loss}'")
        if loss == "bce" and output != "sigmoid":
            raise ValueError(f"loss=bce needs output=sigmoid, not '{output}'")
        if not 0 <= code_dropout < 1:
            raise ValueError(f"code_dropout must lie in [0, 1), not {code_dropout}")
        self.code, self.loss = code, loss
        error = "squared error" if loss == "mse" else "nats"
        self.loss_unit = f"{error} per image" if penalty is None else f"{error} + penalty"
        self.encoder, self.decoder = encoder(shape=shape, code=code), decoder(shape=shape, code=code)
        self.output = activation_layer(output)
        self.noise, self.penalty = noise, penalty
        self.has_dropout = code_dropout > 0
        self.register_buffer("code_dropout", torch.tensor(float(code_dropout)), persistent=False)
        if self.has_dropout and not hasattr(self.encoder, "features"):
            raise ValueError("code_dropout needs an encoder with features() and head(), to stand between them")
        if tied:
            tie(self.encoder, self.decoder)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes h = f(x), [N, code]."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images g(z), [N, C, H, W]; with output=identity a pixel may overshoot [0, 1] a little."""
        return self.output(self.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return x̂ = g(f(x)), [N, C, H, W]."""
        return self.decode(self.encode(x))

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x̃ = Ñ(x); x itself where the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        h = self.drop_and_encode(self.corrupt(batch.x, rng), rng)
        terms = self.terms(batch.x, h, self.decoder(h))
        yield Loss(cast("Tensor", sum(terms.values())), metrics=terms)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        h = self.encode(self.corrupt(batch.x, rng))
        pixels = self.decoder(h)
        terms = self.terms(batch.x, h, pixels)
        mse = F.mse_loss(self.output(pixels), batch.x)
        return {"loss": cast("Tensor", sum(terms.values())), **terms, "mse": mse, "dead": dead(h)}

    def alarms(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Tell of a code most of whose units are the same for all images."""
        share = metrics.get("val/dead", 0.0)
        if share < MOST_DEAD:
            return {}
        return {"dead_code": f"{share:.1%} of the code's {self.code} units are dead: they are the same for all images"}

    def terms(self, x: Tensor, h: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss by name, from codes and pre-activation pixels."""
        if self.loss == "bce":
            error = F.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
        else:
            error = F.mse_loss(self.output(pixels), x, reduction="sum")
        terms = {"reconstruction": error / len(x)}
        if self.penalty is not None:
            # A sum over a wide code, which in half precision would have three digits left.
            terms["penalty"] = self.penalty(h.float())
        return terms

    def drop_and_encode(self, x: Tensor, rng: Rng) -> Tensor:
        """Return codes with the code layer's input dropped out: h = head(m ⊙ features(x) / (1 - p))."""
        if not self.has_dropout:
            return self.encoder(x)
        encoder = cast("Encoder", self.encoder)
        features = encoder.features(x)
        kept = rng.uniform(*features.shape) >= self.code_dropout
        return encoder.head(features * kept / (1 - self.code_dropout))
