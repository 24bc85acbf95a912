"""Generative adversarial networks (lecture, "Redes adversárias geradoras"; Goodfellow et al. 2014)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Group, Loss, Stage
from aectl.models.conditional import Conditional
from aectl.models.networks import Shape, check_repeats, has_batch_statistics
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


def relativistic(real: Scores, fake: Scores) -> Tensor:
    """Return E[softplus(-(D(x) - D(G(z))))] over pairs of a real and a fake image (Huang et al. 2024)."""
    return F.softplus(fake - real).mean()


@dataclass(frozen=True)
class AdversarialLoss:
    """The costs of both players, each a function of the scores of real and of fake images."""

    discriminator: Callable[[Scores, Scores], Tensor]
    generator: Callable[[Scores, Scores], Tensor]
    """Its first argument is empty unless `is_paired`."""
    is_paired: bool = False
    """Whether the costs depend only on the differences D(x) - D(G(z)) of pairs. D then classifies the images of a pair
    correctly if the real one has the higher score."""
    threshold: float = 0.0
    """Score above which D classifies an image as real, unless `is_paired`."""
    classifies: bool = True
    """Whether D is trained to classify, so that its accuracies can raise an alarm."""
    gradient_penalty: float = 0.0
    """Default weight of the penalty of Gulrajani et al. 2017."""
    slope_penalty: float = 0.2
    """Default weight of the penalties `r1` and `r2`."""


LossName = Literal["minimax", "nonsaturating", "lsgan", "hinge", "wgan_gp", "relativistic"]
LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(minimax, lambda _, fake: -0.5 * F.softplus(fake).mean()),
    "nonsaturating": AdversarialLoss(minimax, lambda _, fake: F.softplus(-fake).mean()),
    "lsgan": AdversarialLoss(least_squares, lambda _, fake: 0.5 * (fake - 1).square().mean(), threshold=0.5),
    "hinge": AdversarialLoss(hinge, lambda _, fake: -fake.mean()),
    "wgan_gp": AdversarialLoss(
        wasserstein, lambda _, fake: -fake.mean(), classifies=False, gradient_penalty=10.0, slope_penalty=0.0
    ),
    "relativistic": AdversarialLoss(relativistic, lambda real, fake: relativistic(fake, real), is_paired=True),
}
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


class PenaltySchedule(nn.Module):
    """A penalty on every `every`-th step with `every` times its weight, beginning with the first step.

    The count of steps is part of checkpoints.
    """

    count: Tensor

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("count", torch.tensor(0))
        self.known, self.known_version = 0, self.count._version

    def advance(self, is_recorded: bool) -> int | Tensor:
        """Count a step and return the factor of its penalty: `every`, or 0 if the step has none.

        A recorded step has the same operations each time, so that its factor is a tensor.
        """
        if is_recorded:
            factor = self.every * (self.count.remainder(self.every) == 0).float()
            self.count.add_(1)
            return factor
        # Reading the count makes the host wait for a GPU, so it is read only after something else has written it.
        if self.known_version != self.count._version:
            self.known = int(self.count)
        is_due = self.known % self.every == 0
        self.count.add_(1)
        self.known, self.known_version = self.known + 1, self.count._version
        return self.every if is_due else 0


class GAN(Conditional):
    """Generative adversarial network: min_G max_D E[log D(x)] + E[log(1 - D(G(z)))], z ~ N(0, I).

    `loss` selects the costs: `minimax` as in the lecture; `nonsaturating`, where G maximises log D(G(z)); `lsgan`,
    `hinge` or `wgan_gp`; or `relativistic`, where D compares each real image with a fake one, which needs both `r1` and
    `r2` to converge (Huang et al. 2024). Noise corrupts the input of the discriminator, real and fake. Each batch takes
    `discriminator_steps` steps of D, each with new z, then one step of G.

    The cost of D may have penalties. `gradient_penalty` is the weight of (‖∇D‖ - 1)² between real and fake images
    (Gulrajani et al. 2017), by default 10 for `wgan_gp` and 0 otherwise. `r1` and `r2` are the weights γ of
    γ/2 E‖∇D‖² at real and at fake images, as D sees them (Mescheder et al. 2018). `penalty_every=n` adds the penalties
    on every n-th step of D only, with n times the weight (Karras et al. 2020); the proofs of convergence do not cover
    that.

    Samples use an exponential moving average of the generator's weights, w̄ ← a w̄ + (1 - a) w with a = `averaging`
    (Yazıcı et al. 2019). They are sharper than samples of the current weights, which `averaging=0` uses.

    A `conditional` model (Mirza & Osindero 2014) trains on labelled images only. G gets the one-hot class appended to
    z. D outputs one score for each class, of which the score of the image's class is used. As its last layer is linear,
    this is a projection discriminator, D(x, y) = ψ(h) + e_y·h with features h (Miyato & Koyama 2018), whose ψ is the
    mean of the scores over the classes. Appending a one-hot vector to the pixels would multiply the weights of a dense
    layer.

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

    def __init__(
        self,
        shape: Shape,
        code: int,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module],
        *,
        loss: LossName = "nonsaturating",
        gradient_penalty: float | None = None,
        r1: float | None = 0.0,
        r2: float | None = 0.0,
        penalty_every: int = 1,
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
        self.loss = LOSSES[loss]
        self.gradient_penalty = self.loss.gradient_penalty if gradient_penalty is None else gradient_penalty
        self.r1, self.r2 = (self.loss.slope_penalty if weight is None else weight for weight in (r1, r2))
        for name in ("gradient_penalty", "r1", "r2"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number ≥ 0, not {getattr(self, name)}")
        check_repeats("penalty_every", penalty_every)
        check_repeats("discriminator_steps", discriminator_steps)
        if not 0 <= averaging < 1:
            raise ValueError(f"averaging must lie in [0, 1), not {averaging}")
        width = code + self.set_classes(conditional, classes)
        self.code, self.discriminator_steps, self.noise = code, discriminator_steps, noise
        self.gradient_norms = gradient_norms
        self.generator = generator(shape=shape, code=width)
        self.discriminator = discriminator(shape=shape, code=classes if conditional else 1)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.register_buffer("averaging", torch.tensor(float(averaging)), persistent=False)
        self.register_buffer("followed", torch.zeros(()))
        # Without a schedule, checkpoints are those of earlier versions.
        self.penalty_schedule = PenaltySchedule(penalty_every) if penalty_every > 1 else None

    def groups(self, stage: Stage) -> dict[str, Group]:
        return {
            "discriminator": Group(self.discriminator.parameters()),
            "generator": Group(self.generator.parameters()),
        }

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the images G(z), [N, C, H, W], by the current generator in training mode, else by its average.

        A conditional model uses the classes y [N], by default the most frequent class.
        """
        return (self.generator if self.training else self.average)(self.append_class(z, y)).sigmoid()

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return G(z) for n draws z ~ N(0, temperature² I).

        A conditional model uses the classes y [n], by default drawn with their training frequencies. Raises ValueError
        for a class without training images.
        """
        return self.decode(temperature * rng.normal(n, self.code), self.draw_classes(n, y, rng))

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return images x as the discriminator sees them: corrupted if the run has noise."""
        return x if self.noise is None else self.noise(x, rng)

    def score_seen(self, seen: Tensor, y: Tensor | None = None) -> Scores:
        """Return the discriminator's scores [N] of images of classes y as it sees them."""
        scores = self.discriminator(seen)
        return (scores.squeeze(1) if y is None else scores.gather(1, y[:, None]).squeeze(1)).float()

    def score(self, x: Tensor, rng: Rng, y: Tensor | None = None) -> Scores:
        """Return the discriminator's scores [N] of images of classes y, corrupted if the run has noise."""
        return self.score_seen(self.corrupt(x, rng), y)

    def score_both(self, real: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Scores, Scores]:
        """Return the scores of real and of fake images as D sees them, in one pass if that gives the same scores."""
        # Slopes at one kind of image would be computed at both.
        if has_batch_statistics(self.discriminator) or real.requires_grad != fake.requires_grad:
            return self.score_seen(real, y), self.score_seen(fake, y)
        real_score, fake_score = self.score_seen(torch.cat([real, fake]), None if y is None else y.repeat(2)).chunk(2)
        return real_score, fake_score

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x, y = batch.x, self.complete_labels(len(batch.x), batch.y, rng)
        for _ in range(self.discriminator_steps):
            fake = self.decode(rng.normal(len(x), self.code), y)
            yield self.discriminator_loss(x, fake.detach(), rng, y)
        # The discriminator has stepped by now; the generator is scored by the updated one.
        fake_score = self.score(fake, rng, y)
        with torch.no_grad():
            real_score = self.score(x, rng, y) if self.loss.is_paired else fake_score[:0]
        metrics = self.generator_gradient_norms(fake_score) if self.gradient_norms else None
        yield Loss(self.loss.generator(real_score, fake_score), "generator", metrics)
        self.update_average()

    def discriminator_loss(self, x: Tensor, fake: Tensor, rng: Rng, y: Tensor | None) -> Loss:
        """Return the discriminator's cost on real and fake images [N, C, H, W], with its penalties and accuracies."""
        schedule = self.penalty_schedule
        factor = 1 if schedule is None else schedule.advance(self.is_recorded)
        has_penalties = isinstance(factor, Tensor) or factor > 0
        real, made = self.corrupt(x, rng).detach(), self.corrupt(fake, rng).detach()
        penalised = [(seen, weight) for seen, weight in ((real, self.r1), (made, self.r2)) if weight and has_penalties]
        for seen, _ in penalised:
            seen.requires_grad_()
        real_score, fake_score = self.score_both(real, made, y)
        cost = self.loss.discriminator(real_score, fake_score)
        if penalised:
            total = (real_score + fake_score).sum()
            slopes = torch.autograd.grad(total, [seen for seen, _ in penalised], create_graph=True)
            for (_, weight), slope in zip(penalised, slopes, strict=True):
                cost = cost + factor * weight / 2 * slope.flatten(1).square().sum(1).mean()
        if self.gradient_penalty:
            # Every step draws the same random numbers, whether it has penalties or not, and recorded or not.
            between, seen = self.draw_between(x, fake, rng)
            if has_penalties:
                cost = cost + factor * self.gradient_penalty * self.penalise_gradient(between, seen, y)
        return Loss(cost, "discriminator", self.accuracies(real_score, fake_score))

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
        if self.loss.classifies and (min(right) > SATURATED_ACCURACY or max(right) < 1 - SATURATED_ACCURACY):
            shares = "{:.1%} of real and {:.1%} of fake images".format(*right)
            found["discriminator"] = (
                f"the discriminator classifies {shares} correctly: the generator learns nothing from it"
            )
        return found

    def accuracies(self, real: Scores, fake: Scores) -> dict[str, Tensor]:
        """Return the shares of real and of fake images that the discriminator classifies correctly.

        If only differences of scores matter, both are the share of pairs in which the real image has the higher score.
        """
        if self.loss.is_paired:
            return dict.fromkeys(("accuracy_real", "accuracy_fake"), (real > fake).float().mean())
        return {
            "accuracy_real": (real > self.loss.threshold).float().mean(),
            "accuracy_fake": (fake <= self.loss.threshold).float().mean(),
        }

    def draw_between(self, real: Tensor, fake: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return random points x̂ between real and fake images [N, C, H, W], and these as D sees them."""
        share = rng.uniform(len(real), *[1] * (real.dim() - 1))
        between = (share * real + (1 - share) * fake).requires_grad_()
        return between, self.corrupt(between, rng)

    def penalise_gradient(self, between: Tensor, seen: Tensor, y: Tensor | None = None) -> Tensor:
        """Return E[(‖∇ D(x̂)‖ - 1)²] at points x̂ of `draw_between` (Gulrajani et al. 2017)."""
        (slope,) = torch.autograd.grad(self.score_seen(seen, y).sum(), between, create_graph=True)
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
