"""Importance-weighted autoencoders with one or several stochastic layers (Burda, Grosse & Salakhutdinov 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Stage
from aectl.models.networks import Activation, DenseEncoder, Shape, check_repeats
from aectl.models.vae import VAE
from aectl.rng import Rng

Bound = Literal["vae", "iwae"]
BOUNDS = get_args(Bound)
MIN_MEAN, MAX_MEAN = 0.001, 0.999
"""Range to which pixel means are clipped before their logits become output biases."""


class IWAE(VAE):
    """Importance-weighted autoencoder with one or more layers of codes: max E[log 1/k Σ w_i], w = p(x, z) / q(z|x).

    With L layers of codes z = (z_1 … z_L), the encoder is q(z|x) = q(z_1|x) q(z_2|z_1) …, and the decoder is
    p(x, z) = N(z_L; 0, I) … p(z_1|z_2) p(x|z_1). Each factor between codes is a diagonal Gaussian whose mean and
    log-variance are computed by a dense network.

    With `bound=iwae` the objective is a lower bound of log p(x) that increases with k = `samples`. With `bound=vae` it
    is the mean of log w_i, i.e. the evidence lower bound estimated by k draws. They are equal for k = 1. All values
    are in nats per image. The metrics `nll` = -log p(x|z) and `kl` = log q(z|x) - log p(z) are means over the draws;
    with several layers, `kl_1` … `kl_L` are the contributions of each.

    `codes` lists the sizes from the images upwards. `encoder` and `decoder` connect images and z_1; for every further
    layer, `widths` lists the hidden layers between it and the layer below. Pixels are Bernoulli; `binarise`, noise and
    `warm_up`, which Sønderby et al. (2016) use for several layers, are as in `VAE`. Weights are initialised as in
    Glorot & Bengio 2010, and output biases as the logits of the pixel means. Encoding, decoding and sampling use the
    top layer z_L, whose prior is N(0, I).

    Raises ValueError for an unknown bound, `samples` < 1, a negative warm-up, or codes and widths that do not match.
    """

    metrics: ClassVar = (Metric("kl_*", "contribution of this layer of codes to kl", unit="nats per image"),)
    metric_settings: ClassVar = {"loss": ("samples", "bound", "binarise"), "negative_elbo": ("binarise",)}

    def __init__(
        self,
        shape: Shape,
        codes: Sequence[int],
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        *,
        widths: Sequence[Sequence[int]] = (),
        activation: Activation = "tanh",
        samples: int = 1,
        bound: Bound = "iwae",
        warm_up: int = 0,
        binarise: bool = True,
        noise: nn.Module | None = None,
    ) -> None:
        if bound not in BOUNDS:
            raise ValueError(f"bound must be {' or '.join(BOUNDS)}, not '{bound}'")
        check_repeats("samples", samples)
        if not codes:
            raise ValueError("codes must list at least one size")
        if len(widths) != len(codes) - 1:
            raise ValueError(f"widths must be a list for each code above the first, not {len(widths)} of {len(codes)}")
        super().__init__(shape, codes[0], encoder, decoder, binarise=binarise, warm_up=warm_up, noise=noise)
        self.code, self.samples, self.bound = codes[-1], samples, bound
        between = list(zip(pairwise(codes), widths, strict=True))
        self.up = nn.ModuleList(build_gaussian(below, above, inner, activation) for (below, above), inner in between)
        self.down = nn.ModuleList(
            build_gaussian(above, below, inner[::-1], activation) for (below, above), inner in between
        )
        # Unlike in a VAE, checkpoints have it without a warm-up, too.
        self.register_buffer("steps", torch.tensor(0))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set the output biases to the logits of the pixel means, or of the channel means for a convolution."""
        count = 0
        total: Tensor | float = 0.0
        for batch in batches:
            count, total = count + len(batch.x), total + batch.x.sum(0)
        mean = cast("Tensor", total / count)
        layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        bias = cast("Tensor", [layer for layer in self.decoder.modules() if isinstance(layer, layers)][-1].bias)
        mean = mean.flatten() if len(bias) == mean.numel() else mean.flatten(1).mean(1)
        with torch.no_grad():
            bias.copy_(mean.clamp(MIN_MEAN, MAX_MEAN).logit())

    def first_posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z_1|x), each [N, codes[0]]."""
        return super().posterior(x)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z_L|z_{L-1}), each [N, code], with all lower codes at their means."""
        mu, logvar = self.first_posterior(x)
        for up in self.up:
            mu, logvar = compute_gaussian(up, mu)
        return mu, logvar

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the means of p(x|z_1), [N, C, H, W], for top-layer codes z [N, code], lower codes at their means."""
        for down in reversed(self.down):
            z, _ = compute_gaussian(down, z)
        return super().decode(z)

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z_1) at the mean of q(z_1|x), [N, C, H, W]; upper layers are not used."""
        return super().decode(self.first_posterior(x)[0])

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return the means of p(x|z_1) for n draws of the codes, top down; `temperature` scales all deviations."""
        z = temperature * rng.normal(n, self.code)
        for down in reversed(self.down):
            mean, logvar = compute_gaussian(down, z)
            z = mean + temperature * (0.5 * logvar).exp() * rng.normal(*mean.shape)
        return super().decode(z)

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        nll, kl = self.draw_terms(batch.x, rng)
        log_weights = -nll - self.next_kl_weight() * kl.sum(0)
        yield Loss(-self.compute_bound(log_weights).mean(), metrics=average_terms(nll, kl))

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        nll, kl = self.draw_terms(batch.x, rng)
        log_weights = -nll - kl.sum(0)
        mse = F.mse_loss(self.reconstruct(self.corrupt(batch.x, rng)), batch.x)
        bounds = {"loss": -self.compute_bound(log_weights).mean(), "negative_elbo": -log_weights.mean()}
        return {**bounds, **average_terms(nll, kl), "mse": mse}

    def compute_bound(self, log_weights: Tensor) -> Tensor:
        """Return the bound [N] from log-weights [k, N]: log 1/k Σ w_i (iwae) or 1/k Σ log w_i (vae)."""
        if self.bound == "vae":
            return log_weights.mean(0)
        return log_weights.logsumexp(0) - math.log(len(log_weights))

    def draw_terms(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Binarise and corrupt images x, and return the terms of `samples` draws; see `terms`."""
        x = self.observe(x, rng)
        return self.terms(x, self.first_posterior(self.corrupt(x, rng)), self.samples, rng)

    def log_weights(self, x: Tensor, rng: Rng) -> Callable[[int], Tensor]:
        first = self.first_posterior(x)

        def draw(k: int) -> Tensor:
            nll, kl = self.terms(x, first, k, rng)
            return -nll - kl.sum(0)

        return draw

    def terms(  # type: ignore[override]  # k draws instead of one; no caller uses the VAE's signature
        self, x: Tensor, first: tuple[Tensor, Tensor], k: int, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        """Return -log p(x|z_1) [k, N] and log q - log p of each layer [L, k, N], for k draws z per image.

        `first` holds mu and logvar of q(z_1|x). The factors of 2π in q and p cancel and are omitted.
        """
        codes: list[Tensor] = []
        log_q, log_p = [], []
        for up in (None, *self.up):
            mu, logvar = first if up is None else compute_gaussian(up, codes[-1])
            noise = rng.normal(k, len(x), mu.shape[-1], batch=1)
            codes.append(mu + (0.5 * logvar).exp() * noise)
            log_q.append(-0.5 * (noise.square() + logvar).sum(-1))
        for (z, above), down in zip(pairwise(codes), self.down, strict=True):
            mean, logvar = compute_gaussian(down, above)
            log_p.append(-0.5 * ((z - mean).square() * (-logvar).exp() + logvar).sum(-1))
        log_p.append(-0.5 * codes[-1].square().sum(-1))
        pixels = self.decoder(codes[0].flatten(0, 1)).unflatten(0, (k, len(x)))
        return self.nll(pixels, x.expand_as(pixels)), torch.stack(log_q) - torch.stack(log_p)


def build_gaussian(size: int, code: int, widths: Sequence[int], activation: Activation) -> nn.Module:
    """Return a dense network from codes of `size` to the mean and log-variance of codes of size `code`."""
    return DenseEncoder((1, 1, size), 2 * code, widths=widths, activation=activation)


def compute_gaussian(network: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and log-variance, each [..., code], that `network` computes from codes z [..., size]."""
    mean, logvar = network(z.flatten(0, -2)).float().unflatten(0, z.shape[:-1]).chunk(2, -1)
    return mean, logvar


def average_terms(nll: Tensor, kl: Tensor) -> dict[str, Tensor]:
    """Return the means of nll [k, N] and kl [L, k, N] over draws and images, and of each layer's kl if L > 1."""
    shares = kl.flatten(1).mean(1)
    each = {f"kl_{i}": share for i, share in enumerate(shares, 1)} if len(shares) > 1 else {}
    return {"nll": nll.mean(), "kl": shares.sum(), **each}
