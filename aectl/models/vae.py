"""Variational autoencoders (lecture, "Autoencoders variacionais"; Kingma & Welling 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Score, Stage
from aectl.models.conditional import Conditional
from aectl.models.networks import Shape
from aectl.parallel import average
from aectl.rng import Rng

Likelihood = Literal["bernoulli", "gaussian"]
LIKELIHOODS = get_args(Likelihood)
LearnedStd = Literal["learned", "per_pixel"]
LEARNED_STDS = get_args(LearnedStd)
MIN_LOG_STD, START_STD = -6.0, 0.3
"""Soft lower bound of a learned log σ, from Rybkin et al. (2021), and the σ with which training starts. The spread of
the values that one of 256 grey levels stands for has log σ = -6.8."""
DECODE_BATCH = 2000
"""Codes that `log_prob` decodes at a time."""


COLLAPSED_KL = 0.1
"""KL in nats per image below which the `collapse` alarm is raised. For comparison: one unit that is just active by the
criterion of Burda et al. (2016), a variance of its means of 0.01, has a KL of 0.005."""


class VAE(Conditional):
    """Variational autoencoder: max E_q(z|x)[log p(x|z)] - β KL(q(z|x) ‖ p(z)).

    The encoder computes mu and logvar of q(z|x) = N(mu, diag exp(logvar)), the decoder the parameters of p(x|z), and
    the prior is N(0, I). Both terms are in nats, summed over pixels or code units and averaged over the batch. With
    β = 1 the loss is the negative ELBO.

    The likelihood is `bernoulli` or `gaussian`. With `bernoulli`, `binarise` draws x ~ Bernoulli(pixels) at every step;
    without it, the cross-entropy of grey pixels is not a likelihood. `gaussian` has the standard deviation `std`: a
    number, `learned` (one σ for all pixels) or `per_pixel` (one for each). A learned σ tends to the root mean square of
    the residuals; log σ = -6 + softplus(θ + 6) keeps it above e⁻⁶, since it would tend to 0 for a pixel that never
    changes (Rybkin et al. 2021). Noise corrupts only the input of the encoder.

    Two changes of the loss leave the metrics and validation as they are. During the first `warm_up` training steps β is
    multiplied by a weight that rises from 0 to 1 (Bowman et al. 2016). With `free_bits` = λ > 0 nats, the KL term is
    Σ_j max(λ, KL_j), where KL_j of code unit j is averaged over the batch (Kingma et al. 2016).

    A `conditional` model (Sohn et al. 2015) trains on labelled images only, and computes q(z|x, y) and p(x|z, y) given
    the class y; `nll`, `kl` and `negative_elbo` are those of p(x|y). The encoder gets the class as a further channel,
    a learned image for each class; the decoder gets it one-hot, appended to z. Methods that are not given the class of
    an image use the most likely one, argmax q(y|x) of `class_logits`; `decode` uses the most frequent class. `log_prob`
    is a bound of log p(x) = log Σ_y p(y) p(x|y), where p(y) are the class frequencies of the training images.

    Raises ValueError for an unknown likelihood or std, for numbers out of range, and for a conditional model without
    classes.
    """

    loss_unit = "nats"
    beta: Tensor
    steps: Tensor
    """Training steps so far."""
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            "negative_elbo",
            "negative evidence lower bound, an upper bound of the negative log-likelihood",
            "lower",
            "nats per image",
        ),
        Metric("nll", "reconstruction term of the loss, -log p(x|z)", "lower", "nats per image"),
        Metric("kl", "KL divergence of the posterior from the prior", unit="nats per image"),
        Metric("kl_free", "KL term of the training loss, at least model.free_bits per unit", unit="nats per image"),
        Metric("std", "learned standard deviation of a pixel given the code, mean over pixels"),
    )
    metric_settings: ClassVar = {
        "loss": ("likelihood", "binarise", "std", "beta", "conditional"),
        "negative_elbo": ("likelihood", "binarise", "std", "conditional"),
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
        std: float | LearnedStd = 0.1,
        beta: float = 1.0,
        warm_up: int = 0,
        free_bits: float = 0.0,
        conditional: bool = False,
        classes: int = 0,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be {' or '.join(LIKELIHOODS)}, not '{likelihood}'")
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a finite number ≥ 0, not {beta}")
        if not (std in LEARNED_STDS if isinstance(std, str) else 0 < std < math.inf):
            raise ValueError(f"std must be a finite number > 0, {' or '.join(LEARNED_STDS)}, not {std}")
        if warm_up < 0:
            raise ValueError(f"warm_up is a number of steps and must be at least 0, not {warm_up}")
        if not 0 <= free_bits < math.inf:
            raise ValueError(f"free_bits must be a finite number ≥ 0, not {free_bits}")
        if code < 1:
            raise ValueError(f"code must be at least 1, not {code}")
        self.code, self.likelihood, self.std = code, likelihood, std
        self.warm_up, self.free_bits = warm_up, free_bits
        self.binarise = binarise and likelihood == "bernoulli"
        # The ELBO of p(x|y) is no bound of p(x).
        self.nll_metric = "val/negative_elbo" if likelihood == "bernoulli" and not conditional else ""
        width = code + self.set_classes(conditional, classes)
        channels = shape[0] + conditional
        self.encoder, self.decoder = (
            encoder(shape=(channels, *shape[1:]), code=2 * code),
            decoder(shape=shape, code=width),
        )
        self.noise = noise
        self.register_buffer("beta", torch.tensor(float(beta)), persistent=False)
        # Checkpoints without a warm-up have no count of steps, as those of earlier versions.
        self.register_buffer("steps", torch.tensor(0), persistent=warm_up > 0)
        if likelihood == "gaussian" and isinstance(std, str):
            size = shape if std == "per_pixel" else ()
            self.raw_log_std = nn.Parameter(torch.full(size, math.log(START_STD)))
        if conditional:
            self.class_images = nn.Parameter(torch.empty(classes, 1, *shape[1:]).uniform_())

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar of q(z|x), each [N, code]; of a conditional model with the classes y [N]."""
        if self.conditional:
            y = self.infer_classes(x) if y is None else y
            x = torch.cat([x, self.class_images[y]], 1)
        mu, logvar = self.encoder(x).float().chunk(2, -1)
        return mu, logvar

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the posterior means mu, [N, code]."""
        # A subclass need not know of classes, here and in `terms`.
        return (self.posterior(x) if y is None else self.posterior(x, y))[0]

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the means of p(x|z), [N, C, H, W]; of a conditional model with the classes y [N]."""
        pixels = self.decoder(self.append_class(z, y))
        return pixels.sigmoid() if self.likelihood == "bernoulli" else pixels.clamp(0, 1)

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z) at the posterior mean of z, [N, C, H, W]."""
        if self.conditional and y is None:
            y = self.infer_classes(x)
        return self.decode(self.encode(x, y), y)

    def class_logits(self, x: Tensor) -> Tensor:
        """Return log q(y|x) up to a constant, [N, classes], for a conditional model.

        This is log p(y) + log p(x|z, y) - KL(q(z|x, y) ‖ p(z)) at the posterior mean of z.
        """
        found = []
        for label in range(len(self.shares)):
            y = torch.full((x.shape[0],), label, device=x.device)
            mu, logvar = self.posterior(x, y)
            found.append(-self.fast_nll(self.decoder(self.append_class(mu, y)), x) - kl_of_units(mu, logvar).sum(1))
        return torch.stack(found, 1) + self.shares.log()

    def infer_classes(self, x: Tensor) -> Tensor:
        """Return the most likely classes argmax q(y|x), [N], of images for a conditional model."""
        return self.class_logits(x).argmax(1)

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return the means of p(x|z), [n, C, H, W], for n draws z ~ N(0, temperature² I).

        A conditional model uses the classes y [n], by default drawn with their training frequencies. Raises ValueError
        for a class without training images.
        """
        return self.decode(temperature * rng.normal(n, self.code), self.draw_classes(n, y, rng))

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the corrupted images Ñ(x), or x if the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised at random if `binarise` and the likelihood is Bernoulli, else x itself."""
        return rng.bernoulli(x) if self.binarise else x

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        terms = self.terms(batch.x, rng, batch.y, self.free_bits)
        kl = terms["kl_free"] if self.free_bits else terms["kl"]
        yield Loss(terms["nll"] + self.next_kl_weight() * self.beta * kl, metrics=terms)

    def next_kl_weight(self) -> Tensor | float:
        """Return the weight of the KL term in this training step, min(1, steps / warm_up), and count the step."""
        weight = (self.steps / self.warm_up).clamp(max=1) if self.warm_up else 1.0
        self.steps.add_(1)
        return weight

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        y = batch.y
        if self.conditional and bool((y < 0).any()):
            y = torch.where(y < 0, self.infer_classes(batch.x), y)
        terms = self.terms(batch.x, rng, y)
        mse = F.mse_loss(self.reconstruct(self.corrupt(batch.x, rng), y), batch.x)
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

    def terms(self, x: Tensor, rng: Rng, y: Tensor | None = None, free_bits: float = 0.0) -> dict[str, Tensor]:
        """Return the two terms of the negative ELBO in nats per image: nll = -E_q[log p(x|z)] and kl.

        With `free_bits` they are followed by `kl_free`, the KL term of the loss; with a learned σ by its mean, `std`.
        """
        x = self.observe(x, rng)
        seen = self.corrupt(x, rng)
        mu, logvar = self.posterior(seen, y) if self.conditional else self.posterior(seen)
        z = mu + (0.5 * logvar).exp() * rng.normal(*mu.shape)
        units = kl_of_units(mu, logvar)
        terms = {"nll": self.nll(self.decoder(self.append_class(z, y)), x).mean(), "kl": units.sum() / len(x)}
        if free_bits:
            # A unit's mean is over the whole batch, also if several processes share it.
            terms["kl_free"] = average(units.mean(0)).clamp_min(free_bits).sum()
        if self.likelihood == "gaussian" and isinstance(self.std, str):
            terms["std"] = self.log_std().exp().mean()
        return terms

    def log_std(self) -> Tensor:
        """Return the learned log σ of the Gaussian likelihood, [] or, with `std=per_pixel`, [C, H, W]."""
        return MIN_LOG_STD + F.softplus(self.raw_log_std - MIN_LOG_STD)

    def nll(self, pixels: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x|z), [...] in nats, given the decoder's output and the images x, both [..., C, H, W]."""
        pixels = pixels.float()
        if self.likelihood == "bernoulli":
            return F.binary_cross_entropy_with_logits(pixels, x, reduction="none").flatten(-3).sum(-1)
        if isinstance(self.std, str):
            log_std = self.log_std()
            error = 0.5 * ((x - pixels) * (-log_std).exp()).square() + log_std + 0.5 * math.log(2 * math.pi)
        else:
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
        a Bernoulli likelihood of grey pixels the kind is 'no likelihood'. A conditional model also draws y_i ~ q(y|x).
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
        """Return a function that draws k codes z for each image and returns log p(x, z) / q(z|x), [k, N] in nats.

        A conditional model draws classes as well and returns log p(x, z, y) / q(z, y|x).
        """
        if self.conditional:
            return self.conditional_log_weights(x, rng)
        mu, logvar = self.posterior(x)
        return lambda k: self.draw_log_weights(x, mu, logvar, rng.normal(k, *mu.shape, batch=1))

    def conditional_log_weights(self, x: Tensor, rng: Rng) -> Callable[[int], Tensor]:
        """Return the function that `log_weights` returns for a conditional model."""
        log_p, log_q = self.shares.log(), self.class_logits(x).log_softmax(1)

        def draw(k: int) -> Tensor:
            gumbel = -(-rng.uniform(k, *log_q.shape, batch=1).log()).log()
            y = (log_q + gumbel).argmax(2)
            images = x.expand(k, *x.shape).flatten(0, 1)
            mu, logvar = (part.unflatten(0, (k, len(x))) for part in self.posterior(images, y.flatten()))
            noise = rng.normal(*mu.shape, batch=1)
            log_ratio = log_p[y] - log_q.expand(k, -1, -1).gather(2, y[..., None]).squeeze(2)
            return log_ratio + self.draw_log_weights(x, mu, logvar, noise, y.flatten())

        return draw

    def draw_log_weights(self, x: Tensor, mu: Tensor, logvar: Tensor, noise: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x, z) / q(z|x), [k, N] in nats, at z = mu + σ noise, with `noise` [k, N, code] and y [k N]."""
        z = mu + (0.5 * logvar).exp() * noise
        log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(-1)
        pixels = self.decoder(self.append_class(z.flatten(0, 1), y)).unflatten(0, z.shape[:2])
        return log_ratio - self.fast_nll(pixels, x.expand_as(pixels))


def kl_of_units(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mu, exp(logvar)) ‖ N(0, 1)) of each code unit, [N, code] in nats."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
