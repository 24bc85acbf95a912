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
from aectl.models.networks import Shape, repeats
from aectl.parallel import average
from aectl.rng import Rng

Scores = Tensor
"""The discriminator's outputs before the sigmoid, [N]."""


def minimax(real: Scores, fake: Scores) -> Tensor:
    """Return the lecture's cost of the discriminator, -½ E[log D(x)] - ½ E[log(1 - D(G(z)))]."""
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
"""For each loss: the discriminator's cost, the generator's, and the score above which D calls an image real."""
GOODFELLOWS: dict[str, Callable[[Scores], Tensor]] = {
    "minimax": lambda fake: -F.softplus(fake).mean(),
    "nonsaturating": lambda fake: F.softplus(-fake).mean(),
}
"""The two costs of the generator whose gradients are compared, E[log(1 - D)] and -E[log D], both without a factor:
their gradients are equal where D = ½ (Goodfellow et al. 2014, section 3)."""


LEAST_SPREAD, LEAST_REACHED = 0.15, 0.02
"""Of `variety`, below which a generator has collapsed: on MNIST the default has .33 and .09 after 3 epochs."""
PINNED = 0.99
"""Share of both kinds of images, over an epoch, from which on a discriminator is pinned; the default has .83 to .92."""


class GAN(Model):
    """A generator and a discriminator that contend: min_G max_D E[log D(x)] + E[log(1 - D(G(z)))], z ~ N(0, I).

    `loss` picks the costs: `minimax` is the lecture's, `nonsaturating` lets G maximise log D(G(z)) instead, and
    `lsgan`, `hinge`, `wgan_gp` are later ones; `gradient_penalty` is the weight of (‖∇D‖ - 1)² between real and fake
    images, 10 for `wgan_gp` and 0 otherwise unless given (Gulrajani et al. 2017). Noise corrupts the discriminator's
    input, real and fake. Each batch serves `discriminator_steps` steps of D, with fresh z, before one of G.

    Samples come from the mean of the generator's weights over its last steps, w̄ ← a w̄ + (1 - a) w with a = `averaging`
    (Yazıcı et al. 2019), which are sharper than those of any one step; 0 takes the last weights.

    A `conditional` one (Mirza & Osindero 2014) is told the class: G sees its one-hot vector behind z, and D has a score
    for each class, of which the one of the image's class counts (Mescheder et al. 2018): a vector beside the pixels
    would multiply a dense layer's weights. It learns from labelled images alone. `gradient_norms` logs
    `gradient_minimax` and `gradient_nonsaturating`, the norms of ∂cost/∂(weights of G) on the same batch: as D gets
    sure of its fakes, D(G(z)) → 0, the first vanishes and the second does not. That takes half as long again as a step,
    and changes none.

    'Best' follows the energy distance between samples and held-out images, since neither cost tells how good the
    samples are. Raises ValueError for an unknown loss, numbers out of range, or classes of which there are none.
    """

    # The accuracies have no direction: the generator is there to deceive the discriminator.
    metrics: ClassVar = (
        Metric("energy_distance", "energy distance between samples and these images", "lower"),
        Metric("spread", "mean distance between samples, relative to that between images"),
        Metric("reached", "share of images that are the nearest one of some sample"),
        Metric("accuracy_real", "share of real images that the discriminator classifies correctly"),
        Metric("accuracy_fake", "share of the generator's images that the discriminator classifies correctly"),
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
        repeats("discriminator_steps", discriminator_steps)
        if not 0 <= averaging < 1:
            raise ValueError(f"averaging must lie in [0, 1), not {averaging}")
        if conditional and not classes:
            raise ValueError("conditional needs images that have classes")
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
        """Take the classes' shares from the training images; raises ValueError if a class is needed and none known."""
        if not self.conditional:
            return
        y = torch.cat([batch.y for batch in batches])
        counts = y[y >= 0].bincount(minlength=len(self.shares))
        if not counts.any():
            raise ValueError("model.conditional needs training images with labels, and there are none")
        self.shares.copy_(counts / counts.sum())

    def stages(self) -> Iterator[Stage]:
        yield Stage(labelled=self.conditional)

    def groups(self, stage: Stage) -> dict[str, Group]:
        return {
            "discriminator": Group(self.discriminator.parameters()),
            "generator": Group(self.generator.parameters()),
        }

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the images G(z), [N, C, H, W]: in training of the generator itself, else of its average.

        A conditional one draws the classes y [N], or all of the commonest one.
        """
        if self.conditional:
            y = self.shares.argmax().expand(z.shape[0]) if y is None else y
            z = torch.cat([z, F.one_hot(y, len(self.shares)).to(z)], 1)
        return (self.generator if self.training else self.average)(z).sigmoid()

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return G(z) for n draws z ~ N(0, temperature² I); of the classes y [n], or of some in the data's shares.

        Raises ValueError for a class that no training image was of.
        """
        if self.conditional and y is not None and (self.shares[y[y >= 0]] == 0).any():
            raise ValueError("no training image was of that class")
        return self.decode(temperature * rng.normal(n, self.code), self.labels(n, y, rng))

    def labels(self, n: int, y: Tensor | None, rng: Rng) -> Tensor | None:
        """Return the classes y [n], those missing (-1, or all) drawn in the data's shares; None unless conditional."""
        if not self.conditional:
            return None
        edges = self.shares.cumsum(0)
        drawn = torch.searchsorted(edges, rng.uniform(n) * edges[-1], right=True).clamp_max(len(edges) - 1)
        return drawn if y is None else torch.where(y < 0, drawn, y)

    def judge(self, x: Tensor, rng: Rng, y: Tensor | None = None) -> Scores:
        """Return the discriminator's scores [N] of images, corrupted where the run has noise, as images of class y."""
        seen = x if self.noise is None else self.noise(x, rng)
        scores = self.discriminator(seen)
        return (scores.squeeze(1) if y is None else scores.gather(1, y[:, None]).squeeze(1)).float()

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x, y = batch.x, self.labels(len(batch.x), batch.y, rng)
        for _ in range(self.discriminator_steps):
            fake = self.decode(rng.normal(len(x), self.code), y)
            real_score, fake_score = self.judge(x, rng, y), self.judge(fake.detach(), rng, y)
            cost = self.discriminator_cost(real_score, fake_score)
            if self.has_gradient_penalty:
                cost = cost + self.gradient_penalty * self.slope_excess(x, fake.detach(), rng, y)
            yield Loss(cost, "discriminator", self.accuracies(real_score, fake_score))
        # Here the discriminator has stepped: the generator answers to the new one.
        score = self.judge(fake, rng, y)
        yield Loss(self.generator_cost(score), "generator", self.gradients(score) if self.gradient_norms else None)
        self.follow()

    def gradients(self, fake: Scores) -> dict[str, Tensor]:
        """Return ‖∂cost/∂(weights of G)‖ of both of Goodfellow's costs by name, from the scores of G's images."""
        weights = list(self.generator.parameters())
        found = {}
        for name, cost in GOODFELLOWS.items():
            parts = torch.autograd.grad(cost(fake), weights, retain_graph=True)
            found[f"gradient_{name}"] = average(torch.cat([part.flatten() for part in parts])).norm()
        return found

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average towards the generator's present weights; running statistics are taken as they are.

        A plain mean of the first steps, until they are as many as the average remembers.
        """
        self.followed += 1
        share = torch.maximum(1 - self.averaging, 1 / (self.followed + 1))
        for mean, present in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(present, share)
        for buffer, latest in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            buffer.copy_(latest)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        y = self.labels(len(batch.x), batch.y, rng)
        fake = self.decode(rng.normal(len(batch.x), self.code), y)
        accuracies = self.accuracies(self.judge(batch.x, rng, y), self.judge(fake, rng, y))
        return {"energy_distance": energy_distance(batch.x, fake), **accuracies, **variety(batch.x, fake)}

    def alarms(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Tell of samples that are all alike or near to few of the images, and of a discriminator pinned at 0 or 1."""
        spread, reached = metrics.get("val/spread", 1.0), metrics.get("val/reached", 1.0)
        right = [metrics.get(f"train/accuracy_{kind}", 0.5) for kind in ("real", "fake")]
        found = {}
        if spread < LEAST_SPREAD or reached < LEAST_REACHED:
            near = f"{reached:.1%} of which are near to one"
            alike = f"its samples lie {spread:.1%} as far apart as held-out images, {near}"
            found["collapse"] = f"the generator has collapsed: {alike}"
        # A critic of Wasserstein's has no threshold to be right by.
        is_judge = self.discriminator_cost is not wasserstein
        if is_judge and (min(right) > PINNED or max(right) < 1 - PINNED):
            shares = "{:.1%} of real and {:.1%} of fake images".format(*right)
            found["discriminator"] = f"the discriminator is right about {shares}: the generator learns nothing from it"
        return found

    def accuracies(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """Return the shares of real and of fake images that the discriminator tells right."""
        return {
            "accuracy_real": (real > self.threshold).float().mean(),
            "accuracy_fake": (fake <= self.threshold).float().mean(),
        }

    def slope_excess(self, real: Tensor, fake: Tensor, rng: Rng, y: Tensor | None = None) -> Tensor:
        """Return E[(‖∇ D(x̂)‖ - 1)²] at random points x̂ between real and fake images (Gulrajani et al. 2017)."""
        share = rng.uniform(len(real), *[1] * (real.dim() - 1))
        between = (share * real + (1 - share) * fake).requires_grad_()
        scores = self.judge(between, rng, y)
        (slope,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def apart(x: Tensor) -> Tensor:
    """Return the mean distance E‖x - x′‖ of two different ones of images [N, C, H, W]; 0 of one alone."""
    x = x.flatten(1)
    return torch.cdist(x, x).sum() / max(len(x) * (len(x) - 1), 1)


def variety(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return how various samples y are beside images x, both [N, C, H, W], in two shares.

    `spread` is E‖y - y′‖ / E‖x - x′‖, 1 where there is one image alone, and `reached` the share of images that are the
    nearest one of some sample.
    """
    nearest = torch.cdist(x.flatten(1), y.flatten(1)).argmin(0)
    reached = torch.zeros(len(x), device=x.device).scatter_(0, nearest, 1.0).mean()
    spread = apart(y) / apart(x).clamp_min(1e-12) if len(x) > 1 else torch.ones_like(reached)
    return {"spread": spread, "reached": reached}


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return 2 E‖x - y‖ - E‖x - x′‖ - E‖y - y′‖ over images, unbiased; 0 in the mean only if both have one law.

    Norms are Euclidean over pixels in [0, 1]. Source: Székely & Rizzo 2013.
    """
    return 2 * torch.cdist(x.flatten(1), y.flatten(1)).mean() - apart(x) - apart(y)
