"""Generative adversarial networks (lecture, "Redes adversárias geradoras"; Goodfellow et al. 2014)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Group, Loss, Model, Stage
from aectl.models.networks import Shape, check_repeats
from aectl.parallel import average
from aectl.rng import Rng

Scores = Tensor
"""Outputs of the discriminator before the sigmoid, [N]."""


def minimax(real: Scores, fake: Scores) -> Tensor:
    """Return the discriminator cost of the lecture, -½ E[log D(x)] - ½ E[log(1 - D(G(z)))]."""
    return 0.5 * F.softplus(-real).mean() + 0.5 * F.softplus(fake).mean()


def least_squares(real: Scores, fake: Scores) -> Tensor:
    """Return ½ E[(D(x) - 1)²] + ½ E[D(G(z))²] (Mao et al. 2017)."""
    return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()


def hinge(real: Scores, fake: Scores) -> Tensor:
    """Return E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (Lim & Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def wasserstein(real: Scores, fake: Scores) -> Tensor:
    """Return E[D(G(z))] - E[D(x)] (Arjovsky et al. 2017)."""
    return fake.mean() - real.mean()


LossName = Literal["minimax", "nonsaturating", "lsgan", "hinge", "wgan_gp"]
LOSSES: dict[str, tuple[Callable[[Scores, Scores], Tensor], Callable[[Scores], Tensor], float]] = {
    "minimax": (minimax, lambda fake: -0.5 * F.softplus(fake).mean(), 0.0),
    "nonsaturating": (minimax, lambda fake: F.softplus(-fake).mean(), 0.0),
    "lsgan": (least_squares, lambda fake: 0.5 * (fake - 1).square().mean(), 0.5),
    "hinge": (hinge, lambda fake: -fake.mean(), 0.0),
    "wgan_gp": (wasserstein, lambda fake: -fake.mean(), 0.0),
}
"""For each loss: discriminator cost, generator cost, and the score above which D classifies an image as real."""
COMPARED_GENERATOR_COSTS: dict[str, Callable[[Scores], Tensor]] = {
    "minimax": lambda fake: -F.softplus(fake).mean(),
    "nonsaturating": lambda fake: F.softplus(-fake).mean(),
}
"""Generator costs whose gradient norms are logged: E[log(1 - D)] and -E[log D], without the factor ½. Their gradients
are equal at D = ½ (Goodfellow et al. 2014, section 3)."""


COLLAPSED_SPREAD, COLLAPSED_REACHED = 0.15, 0.02
"""Values of `spread` and `reached` below which the `collapse` alarm is raised. With the default settings on MNIST they
are 0.33 and 0.09 after 3 epochs."""
SATURATED_ACCURACY = 0.99
"""Accuracy on real and on fake images, over an epoch, above which the `discriminator` alarm is raised. With the default
settings it is 0.83 to 0.92."""


class GAN(Model):
    """Generative adversarial network: min_G max_D E[log D(x)] + E[log(1 - D(G(z)))], z ~ N(0, I).

    `loss` selects the costs: `minimax` as in the lecture; `nonsaturating`, where G maximises log D(G(z)); or `lsgan`,
    `hinge` or `wgan_gp`. `gradient_penalty` is the weight of (‖∇D‖ - 1)² between real and fake images (Gulrajani et al.
    2017), by default 10 for `wgan_gp` and 0 otherwise. Noise corrupts the input of the discriminator, real and fake.
    Each batch takes `discriminator_steps` steps of D, each with new z, then one step of G.

    Samples use an exponential moving average of the generator's weights, w̄ ← a w̄ + (1 - a) w with a = `averaging`
    (Yazıcı et al. 2019). They are sharper than samples of the current weights, which `averaging=0` uses.

    A `conditional` model (Mirza & Osindero 2014) trains on labelled images only. G gets the one-hot class appended to
    z. D outputs one score for each class, of which the score of the image's class is used (Mescheder et al. 2018);
    appending a one-hot vector to the pixels would multiply the weights of a dense layer.

    `gradient_norms` logs `gradient_minimax` and `gradient_nonsaturating`, the norms of ∂cost/∂(weights of G) on the
    same batch. When D rejects fakes with confidence, D(G(z)) → 0, the first vanishes and the second does not. A step
    takes 1.5 times as long; training itself is unchanged.

    The best checkpoint minimises the energy distance between samples and held-out images, since neither cost measures
    sample quality. Raises ValueError for an unknown loss, numbers out of range, or a conditional model without classes.
    """

    # Neither direction of the accuracies is better: a good generator deceives the discriminator.
    metrics: ClassVar = (
        Metric("energy_distance", "energy distance between samples and images", "lower"),
        Metric("spread", "mean distance between samples, relative to that between images"),
        Metric("reached", "share of images that are the nearest image of some sample"),
        Metric("accuracy_real", "share of real images that the discriminator classifies correctly"),
        Metric("accuracy_fake", "share of fake images that the discriminator classifies correctly"),
    )
    objective = "val/energy_distance"

    averaging: Tensor
    followed: Tensor
    gradient_penalty: Tensor
    shares: Tensor

    def __init__(
        self,
        shape: Shape,
        code: int,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module],
        *,
        loss: LossName = "nonsaturating",
        gradient_penalty: float | None = None,
        discriminator_steps: int = 1,
        averaging: float = 0.999,
        conditional: bool = False,
        gradient_norms: bool = False,
        classes: int = 0,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not '{loss}'")
        if gradient_penalty is None:
            gradient_penalty = 10.0 if loss == "wgan_gp" else 0.0
        if not 0 <= gradient_penalty < float("inf"):
            raise ValueError(f"gradient_penalty must be a finite number ≥ 0, not {gradient_penalty}")
        check_repeats("discriminator_steps", discriminator_steps)
        if not 0 <= averaging < 1:
            raise ValueError(f"averaging must lie in [0, 1), not {averaging}")
        if conditional and not classes:
            raise ValueError("conditional=true needs a dataset with classes")
        self.code, self.discriminator_steps, self.noise = code, discriminator_steps, noise
        self.discriminator_cost, self.generator_cost, self.threshold = LOSSES[loss]
        self.conditional, self.gradient_norms = conditional, gradient_norms
        self.generator = generator(shape=shape, code=code + classes if conditional else code)
        self.discriminator = discriminator(shape=shape, code=classes if conditional else 1)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("averaging", torch.tensor(float(averaging)), persistent=False)
        self.register_buffer("followed", torch.zeros(()))
        self.has_gradient_penalty = gradient_penalty > 0
        self.register_buffer("gradient_penalty", torch.tensor(float(gradient_penalty)), persistent=False)
        if conditional:
            self.register_buffer("shares", torch.full((classes,), 1 / classes))

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Store the class frequencies of the training images; raises ValueError if labels are missing."""
        if not self.conditional:
            return
        y = torch.cat([batch.y for batch in batches])
        counts = y[y >= 0].bincount(minlength=len(self.shares))
        if not counts.any():
            raise ValueError("model.conditional=true needs training images with labels, and there are none")
        self.shares.copy_(counts / counts.sum())

    def stages(self) -> Iterator[Stage]:
        yield Stage(labelled=self.conditional)

    def groups(self, stage: Stage) -> dict[str, Group]:
        return {
            "discriminator": Group(self.discriminator.parameters()),
            "generator": Group(self.generator.parameters()),
        }

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the images G(z), [N, C, H, W], by the current generator in training mode, else by its average.

        A conditional model uses the classes y [N], by default the most frequent class.
        """
        if self.conditional:
            y = self.shares.argmax().expand(z.shape[0]) if y is None else y
            z = torch.cat([z, F.one_hot(y, len(self.shares)).to(z)], 1)
        return (self.generator if self.training else self.average)(z).sigmoid()

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return G(z) for n draws z ~ N(0, temperature² I).

        A conditional model uses the classes y [n], by default drawn with their training frequencies. Raises ValueError
        for a class without training images.
        """
        if self.conditional and y is not None and (self.shares[y[y >= 0]] == 0).any():
            raise ValueError("there were no training images of that class")
        return self.decode(temperature * rng.normal(n, self.code), self.complete_labels(n, y, rng))

    def complete_labels(self, n: int, y: Tensor | None, rng: Rng) -> Tensor | None:
        """Return classes [n]: y, with missing ones (-1, or y=None) drawn by frequency; None if not conditional."""
        if not self.conditional:
            return None
        edges = self.shares.cumsum(0)
        drawn = torch.searchsorted(edges, rng.uniform(n) * edges[-1], right=True).clamp_max(len(edges) - 1)
        return drawn if y is None else torch.where(y < 0, drawn, y)

    def score(self, x: Tensor, rng: Rng, y: Tensor | None = None) -> Scores:
        """Return the discriminator's scores [N] of images of classes y, corrupted if the run has noise."""
        seen = x if self.noise is None else self.noise(x, rng)
        scores = self.discriminator(seen)
        return (scores.squeeze(1) if y is None else scores.gather(1, y[:, None]).squeeze(1)).float()

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x, y = batch.x, self.complete_labels(len(batch.x), batch.y, rng)
        for _ in range(self.discriminator_steps):
            fake = self.decode(rng.normal(len(x), self.code), y)
            real_score, fake_score = self.score(x, rng, y), self.score(fake.detach(), rng, y)
            cost = self.discriminator_cost(real_score, fake_score)
            if self.has_gradient_penalty:
                cost = cost + self.gradient_penalty * self.penalise_gradient(x, fake.detach(), rng, y)
            yield Loss(cost, "discriminator", self.accuracies(real_score, fake_score))
        # The discriminator has stepped by now; the generator is scored by the updated one.
        score = self.score(fake, rng, y)
        metrics = self.generator_gradient_norms(score) if self.gradient_norms else None
        yield Loss(self.generator_cost(score), "generator", metrics)
        self.update_average()

    def generator_gradient_norms(self, fake: Scores) -> dict[str, Tensor]:
        """Return ‖∂cost/∂(weights of G)‖ for each of COMPARED_GENERATOR_COSTS, given the scores of fake images."""
        weights = list(self.generator.parameters())
        found = {}
        for name, cost in COMPARED_GENERATOR_COSTS.items():
            parts = torch.autograd.grad(cost(fake), weights, retain_graph=True)
            found[f"gradient_{name}"] = average(torch.cat([part.flatten() for part in parts])).norm()
        return found

    @torch.no_grad()
    def update_average(self) -> None:
        """Update the moving average of the generator's weights, and copy its running statistics.

        Over the first 1 / (1 - a) steps the average is the plain mean of all weights so far.
        """
        self.followed += 1
        share = torch.maximum(1 - self.averaging, 1 / (self.followed + 1))
        for mean, present in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(present, share)
        for buffer, latest in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            buffer.copy_(latest)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        y = self.complete_labels(len(batch.x), batch.y, rng)
        fake = self.decode(rng.normal(len(batch.x), self.code), y)
        accuracies = self.accuracies(self.score(batch.x, rng, y), self.score(fake, rng, y))
        return {"energy_distance": energy_distance(batch.x, fake), **accuracies, **measure_variety(batch.x, fake)}

    def alarms(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return alarms for a collapsed generator and for a discriminator that is almost always right or wrong."""
        spread, reached = metrics.get("val/spread", 1.0), metrics.get("val/reached", 1.0)
        right = [metrics.get(f"train/accuracy_{kind}", 0.5) for kind in ("real", "fake")]
        found = {}
        if spread < COLLAPSED_SPREAD or reached < COLLAPSED_REACHED:
            distance = f"its samples lie {spread:.1%} as far apart as held-out images"
            coverage = f"{reached:.1%} of these are the nearest image of a sample"
            found["collapse"] = f"the generator has collapsed: {distance}, and {coverage}"
        # A Wasserstein critic does not classify.
        classifies = self.discriminator_cost is not wasserstein
        if classifies and (min(right) > SATURATED_ACCURACY or max(right) < 1 - SATURATED_ACCURACY):
            shares = "{:.1%} of real and {:.1%} of fake images".format(*right)
            found["discriminator"] = (
                f"the discriminator classifies {shares} correctly: the generator learns nothing from it"
            )
        return found

    def accuracies(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """Return the shares of real and of fake images that the discriminator classifies correctly."""
        return {
            "accuracy_real": (real > self.threshold).float().mean(),
            "accuracy_fake": (fake <= self.threshold).float().mean(),
        }

    def penalise_gradient(self, real: Tensor, fake: Tensor, rng: Rng, y: Tensor | None = None) -> Tensor:
        """Return E[(‖∇ D(x̂)‖ - 1)²] at random points x̂ between real and fake images (Gulrajani et al. 2017)."""
        share = rng.uniform(len(real), *[1] * (real.dim() - 1))
        between = (share * real + (1 - share) * fake).requires_grad_()
        scores = self.score(between, rng, y)
        (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def mean_distance(x: Tensor) -> Tensor:
    """Return the mean distance E‖x - x′‖ between two different images of x [N, C, H, W]; 0 for a single image."""
    x = x.flatten(1)
    return torch.cdist(x, x).sum() / max(len(x) * (len(x) - 1), 1)


def measure_variety(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Compare the variety of samples y with that of images x, both [N, C, H, W].

    `spread` is E‖y - y′‖ / E‖x - x′‖, or 1 for a single image. `reached` is the share of images that are the nearest
    image of some sample.
    """
    nearest = torch.cdist(x.flatten(1), y.flatten(1)).argmin(0)
    reached = torch.zeros(len(x), device=x.device).scatter_(0, nearest, 1.0).mean()
    spread = mean_distance(y) / mean_distance(x).clamp_min(1e-12) if len(x) > 1 else torch.ones_like(reached)
    return {"spread": spread, "reached": reached}


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of 2 E‖x - y‖ - E‖x - x′‖ - E‖y - y′‖, with Euclidean norms over pixels.

    Its expectation is 0 only if both sets have the same distribution. Source: Székely & Rizzo 2013.
    """
    return 2 * torch.cdist(x.flatten(1), y.flatten(1)).mean() - mean_distance(x) - mean_distance(y)
