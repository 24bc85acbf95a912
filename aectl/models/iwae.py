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
from aectl.models.networks import Activation, DenseEncoder, Shape, repeats
from aectl.models.vae import VAE
from aectl.rng import Rng

Bound = Literal["vae", "iwae"]
BOUNDS = get_args(Bound)
DARKEST, BRIGHTEST = 0.001, 0.999
"""Where the means of pixels are cut before their logit becomes the output's bias."""


class IWAE(VAE):
    """A VAE with codes above codes, trained on k draws of them: max E[log 1/k Σ w_i], w = p(x, z) / q(z|x).

    With L codes z = (z_1 … z_L) the encoder goes up, q(z|x) = q(z_1|x) q(z_2|z_1) …, and the decoder comes down,
    p(x, z) = N(z_L; 0, I) … p(z_1|z_2) p(x|z_1), each factor between codes a diagonal Gaussian whose mean and
    log-variance a dense network computes. The bound `iwae` lies below log p(x) and grows with k = `samples`; `vae` is
    the mean of log w_i instead, the evidence lower bound by k draws. With k = 1 they are the same. Both are in nats
    per image, and so are `nll` = -log p(x|z) and `kl` = log q(z|x) - log p(z), means over the draws; with several
    codes `kl_1` … `kl_L` are their shares of it.

    `codes` are the sizes from the images upwards; encoder and decoder lie between images and z_1, and a list of
    `widths` for each code above between it and the one below. While the first `warm_up` steps are trained the kl
    counts by a weight that rises from 0 to 1 (Sønderby et al. 2016); validation has the bound itself. Pixels are
    Bernoulli, and `binarise` and noise mean what they do for a VAE. Dense layers start as Glorot & Bengio 2010 have
    it, the output's bias at the logit of the pixels' mean. The code that is encoded, decoded and drawn is the
    uppermost, whose prior is N(0, I).

    Raises ValueError for an unknown bound, no sample, a negative warm-up, or codes and widths that do not match.
    """

    metrics: ClassVar = (Metric("kl_*", "the share in kl of this layer of codes", unit="nats per image"),)
    metric_settings: ClassVar = {"loss": ("samples", "bound", "binarise"), "negative_elbo": ("binarise",)}
    steps: Tensor

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
        repeats("samples", samples)
        if warm_up < 0:
            raise ValueError(f"warm_up is a number of steps and must be at least 0, not {warm_up}")
        if not codes:
            raise ValueError("codes must have one size at least")
        if len(widths) != len(codes) - 1:
            raise ValueError(f"widths must be a list for each code above the first, not {len(widths)} of {len(codes)}")
        super().__init__(shape, codes[0], encoder, decoder, binarise=binarise, noise=noise)
        self.code, self.samples, self.bound, self.warm_up = codes[-1], samples, bound, warm_up
        between = list(zip(pairwise(codes), widths, strict=True))
        self.up = nn.ModuleList(gaussian(below, above, inner, activation) for (below, above), inner in between)
        self.down = nn.ModuleList(gaussian(above, below, inner[::-1], activation) for (below, above), inner in between)
        self.register_buffer("steps", torch.tensor(0))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set the bias of the layer that makes the pixels to the logit of their mean; of a channel's, if it has one."""
        count = 0
        total: Tensor | float = 0.0
        for batch in batches:
            count, total = count + len(batch.x), total + batch.x.sum(0)
        mean = cast("Tensor", total / count)
        layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        bias = cast("Tensor", [layer for layer in self.decoder.modules() if isinstance(layer, layers)][-1].bias)
        mean = mean.flatten() if len(bias) == mean.numel() else mean.flatten(1).mean(1)
        with torch.no_grad():
            bias.copy_(mean.clamp(DARKEST, BRIGHTEST).logit())

    def lowest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z_1|x), each [N, codes[0]]."""
        return super().posterior(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z_L|z_{L-1}), each [N, code], where every code below is at its mean."""
        mu, logvar = self.lowest(x)
        for up in self.up:
            mu, logvar = parameters(up, mu)
        return mu, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Return the means of p(x|z_1), [N, C, H, W], of uppermost codes [N, code], the codes below at their means."""
        for down in reversed(self.down):
            z, _ = parameters(down, z)
        return super().decode(z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z_1) at the mean of q(z_1|x), [N, C, H, W]: the codes above take no part."""
        return super().decode(self.lowest(x)[0])

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return the means of p(x|z_1) for n draws of all codes from above, their deviations times `temperature`."""
        z = temperature * rng.normal(n, self.code)
        for down in reversed(self.down):
            mean, logvar = parameters(down, z)
            z = mean + temperature * (0.5 * logvar).exp() * rng.normal(*mean.shape)
        return super().decode(z)

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        nll, kl = self.draw(batch.x, rng)
        weight = (self.steps / self.warm_up).clamp(max=1) if self.warm_up else 1.0
        self.steps.add_(1)
        yield Loss(-self.bound_of(-nll - weight * kl.sum(0)).mean(), metrics=means(nll, kl))

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        nll, kl = self.draw(batch.x, rng)
        log_weights = -nll - kl.sum(0)
        mse = F.mse_loss(self.reconstruct(self.corrupt(batch.x, rng)), batch.x)
        bounds = {"loss": -self.bound_of(log_weights).mean(), "negative_elbo": -log_weights.mean()}
        return {**bounds, **means(nll, kl), "mse": mse}

    def bound_of(self, log_weights: Tensor) -> Tensor:
        """Return the bound [N] of k log-weights [k, N]: log 1/k Σ w_i, or 1/k Σ log w_i."""
        if self.bound == "vae":
            return log_weights.mean(0)
        return log_weights.logsumexp(0) - math.log(len(log_weights))

    def draw(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return the terms of `samples` draws for images that are made binary and corrupted first, as `terms` does."""
        x = self.observe(x, rng)
        return self.terms(x, self.lowest(self.corrupt(x, rng)), self.samples, rng)

    def log_weights(self, x: Tensor, rng: Rng) -> Callable[[int], Tensor]:
        lowest = self.lowest(x)

        def draw(k: int) -> Tensor:
            nll, kl = self.terms(x, lowest, k, rng)
            return -nll - kl.sum(0)

        return draw

    def terms(  # type: ignore[override]  # of several draws: what a VAE does with its own is done otherwise here
        self, x: Tensor, lowest: tuple[Tensor, Tensor], k: int, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        """Return, of k draws z for each image, -log p(x|z_1) [k, N] and each code's log q - log p, [L, k, N].

        `lowest` are mu and logvar of q(z_1|x). Factors of 2π stand in q and p alike and are left out.
        """
        codes: list[Tensor] = []
        log_q, log_p = [], []
        for up in (None, *self.up):
            mu, logvar = lowest if up is None else parameters(up, codes[-1])
            noise = rng.normal(k, len(x), mu.shape[-1], batch=1)
            codes.append(mu + (0.5 * logvar).exp() * noise)
            log_q.append(-0.5 * (noise.square() + logvar).sum(-1))
        for (z, above), down in zip(pairwise(codes), self.down, strict=True):
            mean, logvar = parameters(down, above)
            log_p.append(-0.5 * ((z - mean).square() * (-logvar).exp() + logvar).sum(-1))
        log_p.append(-0.5 * codes[-1].square().sum(-1))
        pixels = self.decoder(codes[0].flatten(0, 1)).unflatten(0, (k, len(x)))
        return self.nll(pixels, x.expand_as(pixels)), torch.stack(log_q) - torch.stack(log_p)


def gaussian(size: int, code: int, widths: Sequence[int], activation: Activation) -> nn.Module:
    """Return a dense network from a code of one size to mean and log-variance of one of another."""
    return DenseEncoder((1, 1, size), 2 * code, widths=widths, activation=activation)


def parameters(network: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and log-variance, each [..., code], that a network computes of codes [..., size]."""
    mean, logvar = network(z.flatten(0, -2)).float().unflatten(0, z.shape[:-1]).chunk(2, -1)
    return mean, logvar


def means(nll: Tensor, kl: Tensor) -> dict[str, Tensor]:
    """Return the means over draws and images of nll [k, N] and kl [L, k, N], and each code's share of kl if several."""
    shares = kl.flatten(1).mean(1)
    each = {f"kl_{i}": share for i, share in enumerate(shares, 1)} if len(shares) > 1 else {}
    return {"nll": nll.mean(), "kl": shares.sum(), **each}
