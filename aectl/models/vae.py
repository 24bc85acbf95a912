"""Variational autoencoders (lecture, "Autoencoders variacionais"; Kingma & Welling 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Score, Stage
from aectl.models.networks import Shape
from aectl.rng import Rng

Likelihood = Literal["bernoulli", "gaussian"]
LIKELIHOODS = get_args(Likelihood)
DECODE_BATCH = 2000
"""Codes that `log_prob` decodes at a time."""


COLLAPSED_KL = 0.1
"""KL in nats per image below which the `collapse` alarm is raised. For comparison: one unit that is just active by the
criterion of Burda et al. (2016), a variance of its means of 0.01, has a KL of 0.005."""


class VAE(Model):
    """Variational autoencoder: max E_q(z|x)[log p(x|z)] - β KL(q(z|x) ‖ p(z)).

    The encoder computes mu and logvar of q(z|x) = N(mu, diag exp(logvar)), the decoder the parameters of p(x|z), and
    the prior is N(0, I). Both terms are in nats, summed over pixels or code units and averaged over the batch. With
    β = 1 the loss is the negative ELBO.

    The likelihood is `bernoulli` or `gaussian`. With `bernoulli`, `binarise` draws x ~ Bernoulli(pixels) at every step;
    without it, the cross-entropy of grey pixels is not a likelihood. `gaussian` has the fixed standard deviation `std`.
    Noise corrupts only the input of the encoder.

    Raises ValueError for an unknown likelihood, a negative beta or a std that is not positive.
    """

    loss_unit = "nats"
    beta: Tensor
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "negative_elbo",
            "negative evidence lower bound, an upper bound of the negative log-likelihood",
            "lower",
            "nats per image",
        ),
        Metric("nll", "reconstruction term of the loss, -log p(x|z)", "lower", "nats per image"),
        Metric("kl", "KL divergence of the posterior from the prior", unit="nats per image"),
    )
    metric_settings: ClassVar = {
        "loss": ("likelihood", "binarise", "std", "beta"),
        "negative_elbo": ("likelihood", "binarise", "std"),
    }

    def __init__(
        self,
        shape: Shape,
        code: int,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        *,
        likelihood: Likelihood = "bernoulli",
        binarise: bool = True,
        std: float = 0.1,
        beta: float = 1.0,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be {' or '.join(LIKELIHOODS)}, not '{likelihood}'")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a finite number ≥ 0, not {beta}")
        if not 0 < std < math.inf:
            raise ValueError(f"std must be a finite number > 0, not {std}")
        if code < 1:
            raise ValueError(f"code must be at least 1, not {code}")
        self.code, self.likelihood, self.std = code, likelihood, float(std)
        self.binarise = binarise and likelihood == "bernoulli"
        self.nll_metric = "val/negative_elbo" if likelihood == "bernoulli" else ""
        self.encoder, self.decoder = encoder(shape=shape, code=2 * code), decoder(shape=shape, code=code)
        self.noise = noise
        self.register_buffer("beta", torch.tensor(float(beta)), persistent=False)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x), each [N, code]."""
        mu, logvar = self.encoder(x).float().chunk(2, -1)
        return mu, logvar

    def encode(self, x: Tensor) -> Tensor:
        """Return the posterior means mu, [N, code]."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Return the means of p(x|z), [N, C, H, W]."""
        pixels = self.decoder(z)
        return pixels.sigmoid() if self.likelihood == "bernoulli" else pixels.clamp(0, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z) at the posterior mean of z, [N, C, H, W]."""
        return self.decode(self.encode(x))

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return the means of p(x|z), [n, C, H, W], for n draws z ~ N(0, temperature² I)."""
        return self.decode(temperature * rng.normal(n, self.code))

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the corrupted images Ñ(x), or x if the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised at random if `binarise` and the likelihood is Bernoulli, else x itself."""
        return rng.bernoulli(x) if self.binarise else x

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        terms = self.terms(batch.x, rng)
        yield Loss(terms["nll"] + self.beta * terms["kl"], metrics=terms)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        terms = self.terms(batch.x, rng)
        mse = F.mse_loss(self.reconstruct(self.corrupt(batch.x, rng)), batch.x)
        negative_elbo = terms["nll"] + terms["kl"]
        return {"loss": terms["nll"] + self.beta * terms["kl"], "negative_elbo": negative_elbo, **terms, "mse": mse}

    def alarms(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return an alarm if the posterior has collapsed onto the prior.

        The KL term is an upper bound of the mutual information of image and code, in nats.
        """
        kl = metrics.get("val/kl", math.inf)
        if kl >= COLLAPSED_KL:
            return {}
        return {"collapse": f"the posterior has collapsed: codes carry at most {kl:.2g} nats about their images"}

    def terms(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return the two terms of the negative ELBO in nats per image: nll = -E_q[log p(x|z)] and kl."""
        x = self.observe(x, rng)
        mu, logvar = self.posterior(self.corrupt(x, rng))
        z = mu + (0.5 * logvar).exp() * rng.normal(*mu.shape)
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum() / len(x)
        return {"nll": self.nll(self.decoder(z), x).mean(), "kl": kl}

    def nll(self, pixels: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z), [...] in nats, given the decoder's output and the images x, both [..., C, H, W]."""
        pixels = pixels.float()
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(pixels, x, reduction="none").flatten(-3).sum(-1)
        error = 0.5 * ((x - pixels) / self.std).square() + math.log(self.std) + 0.5 * math.log(2 * math.pi)
        return error.flatten(-3).sum(-1)

    def fast_nll(self, pixels: Tensor, x: Tensor) -> Tensor:
        """Return `nll` up to rounding errors, three times as fast for Bernoulli pixels: log(1 + eˡ) - x l, logits l.

        Training uses `nll`, so that its results stay reproducible to the bit.
        """
        if self.likelihood != "bernoulli":
            return self.nll(pixels, x)
        logits = pixels.float().flatten(-3)
        return F.softplus(logits).sum(-1) - (logits * x.flatten(-3)).sum(-1)

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return the importance-weighted bound log 1/k Σ p(x, z_i) / q(z_i|x), [N] in nats, k = `samples` (100).

        This lower bound increases with k (Burda et al. 2016). With `binarise`, x is binarised once for all k draws. For
        a Bernoulli likelihood of grey pixels the kind is 'no likelihood'.
        """
        x = self.observe(x, rng)
        draw = self.log_weights(x, rng)
        total = torch.full((len(x),), -math.inf, device=x.device)
        k = samples or 100
        at_once = max(1, DECODE_BATCH // len(x))
        for first in range(0, k, at_once):
            total = torch.logaddexp(total, draw(min(at_once, k - first)).logsumexp(0))
        binary = self.likelihood == "bernoulli" and bool(((x == 0) | (x == 1)).all())
        kind = "bound" if binary or self.likelihood == "gaussian" else "no likelihood"
        return Score(total - math.log(k), kind, "binary pixels" if binary else "grey pixels")

    def log_weights(self, x: Tensor, rng: Rng) -> Callable[[int], Tensor]:
        """Return a function that draws k codes z for each image and returns log p(x, z) / q(z|x), [k, N] in nats."""
        mu, logvar = self.posterior(x)

        def draw(k: int) -> Tensor:
            noise = rng.normal(k, *mu.shape, batch=1)
            z = mu + (0.5 * logvar).exp() * noise
            log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(-1)
            pixels = self.decoder(z.flatten(0, 1)).unflatten(0, (k, len(x)))
            return log_ratio - self.fast_nll(pixels, x.expand_as(pixels))

        return draw
