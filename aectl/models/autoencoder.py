"""One class for linear, shallow, undercomplete, overcomplete, sparse, dropout and denoising autoencoders.

They differ only in their YAML files. Noise, penalty and dropout combine freely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Stage
from aectl.models.networks import Activation, Encoder, Shape, activation_layer, tie_weights
from aectl.rng import Rng

DEAD_CODE_SHARE = 0.95
"""Share of dead units at which the `dead_code` alarm is raised."""
DEAD_TOLERANCE = 1e-6
"""A unit is dead if it varies by no more than this, relative to its magnitude. Smaller changes are rounding errors."""


def compute_dead_share(h: Tensor) -> Tensor:
    """Return the share of units that are constant over the codes h [N, code]; 0 for a single code.

    A unit is constant if max - min ≤ DEAD_TOLERANCE · max(|max|, |min|). This includes a ReLU that is always 0 and a
    saturated sigmoid.
    """
    h = h.flatten(1).float()
    high, low = h.amax(0), h.amin(0)
    if len(h) < 2:
        return torch.zeros((), device=h.device)
    return (high - low <= DEAD_TOLERANCE * torch.maximum(high.abs(), low.abs())).float().mean()


class Autoencoder(Model):
    """Autoencoder, trained to reconstruct its input from a code: min L(x, g(f(Ñ(x)))) + R(f(Ñ(x))).

    f is the encoder, g the decoder followed by the output function, Ñ the noise and R the penalty. The loss compares
    the reconstruction with the clean x. L is summed over pixels and averaged over the batch: `mse` is ‖x - x̂‖², and
    `bce` is the cross-entropy -Σ x log x̂ + (1 - x) log(1 - x̂) in nats, which requires output=sigmoid.
    `code_dropout` is the dropout probability of the inputs of the code layer. Images are [N, C, H, W], pixels in
    [0, 1]; codes are [N, code].

    Raises ValueError for an unknown loss or output, a dropout outside [0, 1), or weights that cannot be tied.
    Source: lecture, "Autoencoders", "Overcomplete regularized AEs", "Denoising AEs".
    """

    encoder: nn.Module
    decoder: nn.Module
    code_dropout: Tensor
    metrics: ClassVar = (
        Metric("reconstruction", "reconstruction term of the loss, summed over pixels, mean over images", "lower"),
        Metric("penalty", "penalty term of the loss, mean over images"),
        Metric("dead", "share of code units that are constant over all images"),
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
            raise ValueError("code_dropout needs an encoder with features() and head(): it is applied between them")
        if tied:
            tie_weights(self.encoder, self.decoder)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes h = f(x), [N, code]."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images g(z), [N, C, H, W]. With output=identity pixels may lie outside [0, 1]."""
        return self.output(self.decoder(z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return x̂ = g(f(x)), [N, C, H, W]."""
        return self.decode(self.encode(x))

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the corrupted images Ñ(x), or x if the run has no noise."""
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
        return {"loss": cast("Tensor", sum(terms.values())), **terms, "mse": mse, "dead": compute_dead_share(h)}

    def alarms(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return an alarm if most code units are constant over all images."""
        share = metrics.get("val/dead", 0.0)
        if share < DEAD_CODE_SHARE:
            return {}
        return {"dead_code": f"{share:.1%} of the {self.code} code units are dead: they are the same for all images"}

    def terms(self, x: Tensor, h: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss by name, given codes h and pixels before the output function."""
        if self.loss == "bce":
            error = F.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
        else:
            error = F.mse_loss(self.output(pixels), x, reduction="sum")
        terms = {"reconstruction": error / len(x)}
        if self.penalty is not None:
            # In half precision a sum over a wide code would keep only three digits.
            terms["penalty"] = self.penalty(h.float())
        return terms

    def drop_and_encode(self, x: Tensor, rng: Rng) -> Tensor:
        """Return codes with dropout on the input of the code layer: h = head(m ⊙ features(x) / (1 - p))."""
        if not self.has_dropout:
            return self.encoder(x)
        encoder = cast("Encoder", self.encoder)
        features = encoder.features(x)
        kept = rng.uniform(*features.shape) >= self.code_dropout
        return encoder.head(features * kept / (1 - self.code_dropout))
