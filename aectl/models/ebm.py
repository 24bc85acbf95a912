"""Energy-based models trained by noise-contrastive estimation.

Source: lecture, "Likelihood-free inference via classification". Samples
come from Markov chains (lecture, "Métodos de Monte Carlo").
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
from aectl.models.networks import Shape, check_repeats
from aectl.rng import Rng

MIN_VARIANCE = 1e-6
"""Principal directions with a smaller variance, in squared units of the pixel range, count as constant."""
MIN_STEP_SHARE = 0.001
"""Smallest step size of a chain, relative to the largest."""
JUMP_SHARE = 0.25
"""Share of a chain's steps that propose a new draw from the noise distribution."""
CHAINS, TEMPERATURES = 500, 1000
"""Chains and temperature steps of annealed importance sampling."""


class State(NamedTuple):
    """State of N chains."""

    u: Tensor
    """Whitened coordinates [N, components]."""
    ratio: Tensor
    """f(u), [N]."""
    gradient: Tensor
    """∂f/∂u, [N, components]."""


class EBM(Model):
    """Energy-based model E(x) = -log p(x), trained as a classifier of images against a known noise distribution q.

    Noise-contrastive estimation (Gutmann & Hyvärinen 2012): for each image x, draw ν = `noise_ratio` noise samples
    y ~ q. The classifier s(f - log ν), s the logistic function, that minimises

        -E[log s(f(x) - log ν)] - ν E[log(1 - s(f(y) - log ν))]

    has f = log p / q. Therefore E(x) = -log q(x) - f(x) in nats. The normalising constant is learnt along with f:
    ∫ exp(-E) = 1 up to the error of the classifier.

    q is the Gaussian of probabilistic PCA fitted to the training images (Tipping & Bishop 1999): u ~ N(0, I) in the
    whitened coordinates of the first `components` principal directions, and one common variance in all others. f is
    `network`(u), so p and q differ only in u. A classifier of all pixels would learn nothing: pixels that are always
    black would separate images from noise perfectly. Noise corrupts the images; p and q then describe corrupted images.

    Samples are the final states of Markov chains of `sample_steps` steps, which start from q while f is annealed from
    0. In the directions beyond `components` they have the mean of q, just as samples of a VAE are means of its
    likelihood. `step_size` is the largest step of Langevin dynamics, a squared distance in whitened coordinates.
    Raises ValueError for numbers out of range.
    """

    # Neither direction is better: noise close to the data should confuse the classifier.
    metrics: ClassVar = (
        Metric("accuracy_data", "share of images that the classifier classifies correctly"),
        Metric("accuracy_noise", "share of noise samples that the classifier classifies correctly"),
        Metric("log_ratio", "mean log p / q of the images, q the noise distribution", unit="nats"),
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
        check_repeats("noise_ratio", noise_ratio)
        check_repeats("sample_steps", sample_steps)
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
        """Fit q to the training images; raises ValueError if they vary in fewer directions than `components`."""
        rng, k, n = Rng(0, self.mean.device).fork("noise distribution"), self.components, 0
        total: Tensor | float = 0.0
        products: Tensor | float = 0.0
        for batch in batches:
            x = self.corrupt(batch.x, rng).flatten(1).cpu().double()
            n, total, products = n + len(x), total + x.sum(0), products + x.T @ x
        mean = cast("Tensor", total / n)
        variances, basis = torch.linalg.eigh(products / n - torch.outer(mean, mean))
        variances, basis = variances.flip(0), basis.flip(1)
        # With all components there is no remaining variance that could be too small.
        rest = variances[k:].mean() if k < len(variances) else torch.ones(())
        if min(variances[k - 1], rest) < MIN_VARIANCE:
            found = int((variances >= MIN_VARIANCE).sum())
            raise ValueError(
                f"components: the training images vary in only {found} directions, so with {k} their density is "
                "unbounded. Set fewer components, or noise=gaussian."
            )
        fitted = {"mean": mean, "basis": basis[:, :k], "spread": variances[:k].sqrt(), "rest": rest.sqrt()}
        for name, value in fitted.items():
            getattr(self, name).copy_(value)

    def corrupt(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the corrupted images Ñ(x), or x if the run has no noise."""
        return x if self.noise is None else self.noise(x, rng)

    def whiten(self, x: Tensor) -> Tensor:
        """Return the whitened coordinates u [N, components] of images x [N, C, H, W]."""
        return (x.flatten(1) - self.mean) @ self.basis / self.spread

    def unwhiten(self, u: Tensor, rest: Tensor | None = None) -> Tensor:
        """Return the images [N, C, H, W] of coordinates u; `rest` [N, pixels] is normal noise for other directions."""
        x = self.mean + (u * self.spread) @ self.basis.T
        if rest is not None:
            x = x + self.rest * (rest - rest @ self.basis @ self.basis.T)
        return x.unflatten(1, self.shape)

    def log_ratio(self, u: Tensor) -> Tensor:
        """Return f(u) = log p(x) / q(x), [N] in nats."""
        return self.network(u).squeeze(1).float()

    def log_noise(self, x: Tensor, u: Tensor) -> Tensor:
        """Return log q(x), [N] in nats, of images x [N, C, H, W] with whitened coordinates u."""
        centred, left = x.flatten(1) - self.mean, len(self.mean) - self.components
        beyond = centred.square().sum(1) - (u * self.spread).square().sum(1)
        distance = u.square().sum(1) + (beyond.clamp_min(0) / self.rest.square() if left else 0)
        log_volume = self.spread.log().sum() + left * self.rest.log() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -0.5 * distance - log_volume

    def energy(self, x: Tensor) -> Tensor:
        """Return E(x) = -log q(x) - f(x), [N] in nats, normalised up to the error of the classifier."""
        u = self.whiten(x)
        return -self.log_noise(x, u) - self.log_ratio(u)

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return -E(x) [N], an 'estimate' of log p(x) that uses the learnt normalising constant."""
        return Score(-self.energy(x), "estimate")

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        terms = self.terms(batch.x, rng)
        yield Loss(terms.pop("loss"), metrics=terms)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        return self.terms(batch.x, rng)

    def terms(self, x: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return the loss, the accuracies on images and on noise, and `log_ratio`, the mean f of the images."""
        offset = math.log(self.noise_ratio)
        found = self.log_ratio(self.whiten(self.corrupt(x, rng)))
        drawn = self.log_ratio(rng.normal(self.noise_ratio * len(x), self.components))
        return {
            "loss": F.softplus(offset - found).mean() + self.noise_ratio * F.softplus(drawn - offset).mean(),
            "accuracy_data": (found > offset).float().mean(),
            "accuracy_noise": (drawn <= offset).float().mean(),
            "log_ratio": found.mean(),
        }

    def chain_state(self, u: Tensor) -> State:
        """Return the state of chains at u [N, components]."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            ratio = self.log_ratio(u)
            (gradient,) = torch.autograd.grad(ratio.sum(), u)
        return State(u.detach(), ratio.detach(), gradient)

    def step_chain(self, old: State, rng: Rng, share: float = 1.0, temperature: float = 1.0) -> State:
        """Return the state after one step, which leaves p_b(u) ∝ exp((b f(u) - ‖u‖²/2) / T²) invariant, b = `share`.

        A step is one of two Metropolis proposals:

        - Langevin dynamics, 3/4 of the steps: u′ = u + h/2 ∇(b f - ‖u‖²/2) + T √h ε (Roberts & Tweedie 1996). The step
          size h is drawn at random, so that one `step_size` suits both narrow and wide regions.
        - A draw from q, which may reach another mode: u′ = T ε, accepted with probability
          min(1, exp(b (f(u′) - f(u)) / T²)).
        """
        n, k = old.u.shape
        h = self.step_size * MIN_STEP_SHARE ** rng.uniform(n, 1)
        jumps, noise = rng.uniform(n) < JUMP_SHARE, temperature * rng.normal(n, k)

        def drift(at: State) -> Tensor:
            return at.u + h / 2 * (share * at.gradient - at.u)

        new = self.chain_state(torch.where(jumps[:, None], noise, drift(old) + h.sqrt() * noise))
        # All terms are multiplied by T², which may be 0; then only steps that lower the energy are accepted.
        gain = share * (new.ratio - old.ratio)
        there, back = ((a.u - drift(b)).square().sum(1) for a, b in ((new, old), (old, new)))
        moved = gain + (old.u.square().sum(1) - new.u.square().sum(1)) / 2 + (there - back) / (2 * h.squeeze(1))
        accepted = temperature**2 * (1 - rng.uniform(n)).log() <= torch.where(jumps, gain, moved)
        kept = zip(old, new, strict=True)
        return State(*(torch.where(accepted.view(-1, *[1] * (a.dim() - 1)), b, a) for a, b in kept))

    def anneal(self, n: int, steps: int, rng: Rng, temperature: float = 1.0) -> tuple[State, Tensor]:
        """Run n chains from q to p, annealing f from 0 over `steps` steps; return their states and log weights [n].

        At temperature 1 the mean weight estimates Z = ∫ exp(-E(x)) dx (annealed importance sampling, Neal 2001).
        """
        state = self.chain_state(temperature * rng.normal(n, self.components))
        log_weights = torch.zeros_like(state.ratio)
        for before, after in pairwise(torch.linspace(0, 1, steps + 1).tolist()):
            log_weights += (after - before) * state.ratio
            state = self.step_chain(state, rng, after, temperature)
        return state, log_weights

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return the final states of n chains, [n, C, H, W], clipped to [0, 1]; f is annealed over half of the steps.

        `temperature` T samples from p^(1/T²), which scales the standard deviation of a Gaussian p by T.
        """
        fading = (self.sample_steps + 1) // 2
        state, _ = self.anneal(n, fading, rng, temperature)
        for _ in range(self.sample_steps - fading):
            state = self.step_chain(state, rng, 1.0, temperature)
        return self.unwhiten(state.u).clamp(0, 1)

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n draws from q [n, C, H, W], with twice its standard deviation in the principal directions."""
        return self.unwhiten(2 * rng.normal(n, self.components), rng.normal(n, len(self.mean)))

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the images [N, C, H, W] after one step; directions beyond `components` are drawn afresh."""
        return self.unwhiten(
            self.step_chain(self.chain_state(self.whiten(x)), rng).u, rng.normal(len(x), len(self.mean))
        )

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x unchanged: energies are defined for grey pixels."""
        return x

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log ∫ exp(-E(x)) dx by annealed importance sampling, then 0, its value if the classifier is optimal.

        The confidence interval of the first is computed from the standard error of the mean weight.
        """
        _, log_weights = self.anneal(CHAINS, TEMPERATURES, rng)
        weights = (log_weights.double() - log_weights.max()).exp()
        value = float(log_weights.max()) + math.log(float(weights.mean()))
        ci95 = 1.96 * float(weights.std() / weights.mean()) / CHAINS**0.5
        return [Partition(value, ci95, "AIS", "grey pixels"), Partition(0.0, 0.0, "NCE", "grey pixels")]
