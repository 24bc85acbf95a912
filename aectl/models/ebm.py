"""Energies learnt by telling data from noise (lecture, "Likelihood-free inference via classification").

Their samples are walked to, not drawn (lecture, "Métodos de Monte Carlo").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Partition, Score, Stage
from aectl.models.networks import Shape, repeats
from aectl.rng import Rng

SMALLEST = 1e-6
"""A variance below this, in squared units of the pixel range, is that of a direction in which images do not vary."""
FINEST = 0.001
"""The shortest step of a chain, as a share of the longest."""
JUMPS = 0.25
"""The share of a chain's steps that propose a fresh draw of the noise instead of a move."""
CHAINS, TEMPERATURES = 500, 1000
"""Chains of annealed importance sampling, and its steps from the noise to the model."""


class State(NamedTuple):
    """Where chains stand."""

    u: Tensor
    """Whitened coordinates [N, components]."""
    ratio: Tensor
    """f(u), [N]."""
    slope: Tensor
    """∂f/∂u, [N, components]."""


class EBM(Model):
    """An energy E(x) = -log p(x) whose p has no integral to be known: a classifier compares it with a known q.

    Noise-contrastive estimation (Gutmann & Hyvärinen 2012): ν = `noise_ratio` draws y ~ q come with each image x, and
    the classifier s(f - log ν), s the logistic function, that minimises

        -E[log s(f(x) - log ν)] - ν E[log(1 - s(f(y) - log ν))]

    has f = log p / q. So E(x) = -log q(x) - f(x) in nats, and its constant is learnt like all the rest: up to the
    classifier's error, ∫ exp(-E) is 1.

    q is the normal distribution that probabilistic PCA fits to the training images (Tipping & Bishop 1999): their first
    `components` principal directions, in whose whitened coordinates it is u ~ N(0, I), and one variance for all
    others. f is `network`(u), so that p and q differ in u alone; a classifier that saw all pixels would tell images
    from draws by those that are always black, be sure of everything, and learn nothing. Noise corrupts the images: p
    and q are then those of corrupted ones.

    Samples are the ends of `sample_steps` steps of chains that begin in q and see f fade in; they have the mean of q in
    the directions beyond `components`, as those of a VAE have the mean of its likelihood. `step_size` is the largest
    step of Langevin dynamics, a squared distance in whitened coordinates. Raises ValueError for numbers out of range.
    """

    # No direction: the noise is there to deceive the classifier.
    metrics: ClassVar = (
        Metric("accuracy_data", "share of images that the classifier tells from noise"),
        Metric("accuracy_noise", "share of noise that the classifier tells from images"),
        Metric(
            "log_ratio",
            "mean of log p / q, what the model gives images more than the noise distribution does",
            unit="nats",
        ),
    )
    metric_settings: ClassVar = {"loss": ("noise_ratio",)}
    mean: Tensor
    basis: Tensor
    spread: Tensor
    rest: Tensor
    step_size: Tensor

    def __init__(
        self,
        shape: Shape,
        network: Callable[..., nn.Module],
        *,
        components: int | None = 32,
        noise_ratio: int = 10,
        sample_steps: int = 200,
        step_size: float = 1.0,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        pixels = math.prod(shape)
        components = pixels if components is None else components
        if components < 1:
            raise ValueError(f"components must be at least 1, not {components}")
        repeats("noise_ratio", noise_ratio)
        repeats("sample_steps", sample_steps)
        if not 0 < step_size < math.inf:
            raise ValueError(f"step_size must be a finite number > 0, not {step_size}")
        self.shape, self.components = tuple(shape), min(components, pixels)
        self.noise_ratio, self.sample_steps, self.noise = noise_ratio, sample_steps, noise
        self.network = network(shape=(1, 1, self.components), code=1)
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.eye(pixels)[:, : self.components].contiguous())
        self.register_buffer("spread", torch.ones(self.components))
        self.register_buffer("rest", torch.ones(()))
        self.register_buffer("step_size", torch.tensor(float(step_size)), persistent=False)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Fit q to the training images; raises ValueError if they do not vary in as many directions as it has."""
        rng, k, n = Rng(0, self.mean.device).fork("noise distribution"), self.components, 0
        total: Tensor | float = 0.0
        products: Tensor | float = 0.0
        for batch in batches:
            x = self.corrupt(batch.x, rng).flatten(1).cpu().double()
            n, total, products = n + len(x), total + x.sum(0), products + x.T @ x
        mean = cast("Tensor", total / n)
        variances, basis = torch.linalg.eigh(products / n - torch.outer(mean, mean))
        variances, basis = variances.flip(0), basis.flip(1)
        # Where nothing is left over, nothing can be too small.
        rest = variances[k:].mean() if k < len(variances) else torch.ones(())
        if min(variances[k - 1], rest) < SMALLEST:
            found = int((variances >= SMALLEST).sum())
            raise ValueError(
                f"components: the training images vary in {found} directions alone, and with {k} of them their density "
                "has no bound; take fewer, or noise=gaussian"
            )
        fitted = {"mean": mean, "basis": basis[:, :k], "spread": variances[:k].sqrt(), "rest": rest.sqrt()}
        for name, value in fitted.items():
            getattr(self, name).copy_(value)

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x̃ = Ñ(x); x itself where the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def whiten(self, x: Tensor) -> Tensor:
        """Return the whitened coordinates u of images x [N, C, H, W], [N, components]."""
        return (x.flatten(1) - self.mean) @ self.basis / self.spread

    def image(self, u: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return the images [N, C, H, W] at u; `rest` [N, pixels] is normal noise for the directions beyond."""
        x = self.mean + (u * self.spread) @ self.basis.T
        if rest is not None:
            x = x + self.rest * (rest - rest @ self.basis @ self.basis.T)
        return x.unflatten(1, self.shape)

    def ratio(self, u: Tensor) -> Tensor:
        """Return f(u) = log p(x) / q(x), [N] in nats."""
        return self.network(u).squeeze(1).float()

    def log_noise(self, x: Tensor, u: Tensor) -> Tensor:
        """Return log q(x) of images x [N, C, H, W] with the coordinates u, [N] in nats."""
        centred, left = x.flatten(1) - self.mean, len(self.mean) - self.components
        beyond = centred.square().sum(1) - (u * self.spread).square().sum(1)
        distance = u.square().sum(1) + (beyond.clamp_min(0) / self.rest.square() if left else 0)
        log_volume = self.spread.log().sum() + left * self.rest.log() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -0.5 * distance - log_volume

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x) = -log q(x) - f(x), [N] in nats; normalised as far as the classifier is right."""
        u = self.whiten(x)
        return -self.log_noise(x, u) - self.ratio(u)

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return -E(x), [N]: an 'estimate' of log p(x), with the constant that was learnt."""
        return Score(-self.energy(x), "estimate")

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        terms = self.terms(batch.x, rng)
        yield Loss(terms.pop("loss"), metrics=terms)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        return self.terms(batch.x, rng)

    def terms(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return the loss, the shares of images and of draws told right, and `log_ratio`, the mean f of images.

        The last is what p gives images more than q does, in nats, as far as p is normalised.
        """
        offset = math.log(self.noise_ratio)
        found = self.ratio(self.whiten(self.corrupt(x, rng)))
        drawn = self.ratio(rng.normal(self.noise_ratio * len(x), self.components))
        return {
            "loss": F.softplus(offset - found).mean() + self.noise_ratio * F.softplus(drawn - offset).mean(),
            "accuracy_data": (found > offset).float().mean(),
            "accuracy_noise": (drawn <= offset).float().mean(),
            "log_ratio": found.mean(),
        }

    def state(self, u: Tensor) -> State:
        """Return the state of chains that stand at u [N, components]."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            ratio = self.ratio(u)
            (slope,) = torch.autograd.grad(ratio.sum(), u)
        return State(u.detach(), ratio.detach(), slope)

    def advance(self, old: State, rng: Rng, share: float = 1.0, temperature: float = 1.0) -> State:
        """Return the state after a step that leaves p_b(u) ∝ exp((b f(u) - ‖u‖²/2) / T²) as it is, b = `share` of f.

        Three quarters of the steps are Langevin dynamics, u′ = u + h/2 ∇(b f - ‖u‖²/2) + T √h ε, accepted or not as
        Metropolis says (Roberts & Tweedie 1996); h is drawn anew, so that one `step_size` serves narrow ridges and wide
        plains. The others propose a draw of q, which may lie in another mode: u′ = T ε, accepted with probability
        min(1, exp(b (f(u′) - f(u)) / T²)).
        """
        n, k = old.u.shape
        h = self.step_size * FINEST ** rng.uniform(n, 1)
        jumps, noise = rng.uniform(n) < JUMPS, temperature * rng.normal(n, k)

        def ahead(at: State) -> Tensor:
            return at.u + h / 2 * (share * at.slope - at.u)

        new = self.state(torch.where(jumps[:, None], noise, ahead(old) + h.sqrt() * noise))
        # Everything times T², which may be 0: then only what lowers the energy is accepted.
        gain = share * (new.ratio - old.ratio)
        there, back = ((a.u - ahead(b)).square().sum(1) for a, b in ((new, old), (old, new)))
        moved = gain + (old.u.square().sum(1) - new.u.square().sum(1)) / 2 + (there - back) / (2 * h.squeeze(1))
        accepted = temperature**2 * (1 - rng.uniform(n)).log() <= torch.where(jumps, gain, moved)
        kept = zip(old, new, strict=True)
        return State(*(torch.where(accepted.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in kept))

    def anneal(self, n: int, steps: int, rng: Rng, temperature: float = 1.0) -> tuple[State, Tensor]:
        """Return n chains that began in q and saw f fade in over `steps` steps, and their log weights [n].

        The mean of the weights is Z = ∫ exp(-E(x)) dx (annealed importance sampling, Neal 2001), at temperature 1.
        """
        state = self.state(temperature * rng.normal(n, self.components))
        log_weights = torch.zeros_like(state.ratio)
        for before, after in pairwise(torch.linspace(0, 1, steps + 1).tolist()):
            log_weights += (after - before) * state.ratio
            state = self.advance(state, rng, after, temperature)
        return state, log_weights

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return where n chains end, f fading in over half of their steps, [n, C, H, W], cut to [0, 1].

        `temperature` T draws from p^(1/T²), which scales the standard deviation of a normal p by T.
        """
        fading = (self.sample_steps + 1) // 2
        state, _ = self.anneal(n, fading, rng, temperature)
        for _ in range(self.sample_steps - fading):
            state = self.advance(state, rng, 1.0, temperature)
        return self.image(state.u).clamp(0, 1)

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n draws of q, twice as wide in its principal directions, [n, C, H, W]."""
        return self.image(2 * rng.normal(n, self.components), rng.normal(n, len(self.mean)))

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the images [N, C, H, W] a step later; in the directions beyond the principal ones, drawn anew."""
        return self.image(self.advance(self.state(self.whiten(x)), rng).u, rng.normal(len(x), len(self.mean)))

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x itself: energies are of grey pixels."""
        return x

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log ∫ exp(-E(x)) dx by annealed importance sampling, then 0, as noise-contrastive estimation has it.

        The interval of the first is that of a mean of weights, by its standard error.
        """
        _, log_weights = self.anneal(CHAINS, TEMPERATURES, rng)
        weights = (log_weights.double() - log_weights.max()).exp()
        value = float(log_weights.max()) + math.log(float(weights.mean()))
        ci95 = 1.96 * float(weights.std() / weights.mean()) / CHAINS**0.5
        return [Partition(value, ci95, "AIS", "grey pixels"), Partition(0.0, 0.0, "NCE", "grey pixels")]
