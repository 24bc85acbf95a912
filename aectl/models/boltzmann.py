"""Boltzmann machines without restriction, small enough to be summed over (Ackley, Hinton & Sejnowski 1985)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Partition, Score, Stage
from aectl.models.networks import Shape, repeats
from aectl.models.partition import ENUMERABLE, bias_of, states
from aectl.models.rbm import COLDEST
from aectl.parallel import average
from aectl.rng import Rng

Gradient = Literal["exact", "gibbs"]
GRADIENTS = get_args(Gradient)


class Boltzmann(Model):
    """Binary units s, pixels v first and `hidden` units h behind them, each joined with each: p(s) = exp(-E(s)) / Z.

    E(s) = -½ sᵀ W s - b·s, W symmetric, its diagonal 0. All 2^(pixels + hidden) states are gone through, so that
    F(v) = -log Σ_h exp(-E(v, h)), Z = Σ_v exp(-F(v)) and the gradient of the negative log-likelihood F(v) + log Z are
    exact; for more than ENUMERABLE units that is not to be had. Beside it stands the gradient by Gibbs sampling, of
    E(s) of the data less E(s) of `persistent` chains, as means: the difference of the moments <s sᵀ>. The hidden units
    of the data come by `settle` sweeps over them with the pixels clamped, the chains go on by `steps` sweeps over all
    units from batch to batch. A sweep draws one unit after the other, given all others.

    `gradient` says which of the two is descended; both are logged at every step, as their norms and the `cosine`
    between them. Noise corrupts the images, and grey pixels are drawn as binary ones.

    Raises ValueError for more units than ENUMERABLE, an unknown gradient or numbers out of range.
    """

    metrics: ClassVar = (Metric("energy", "mean free energy of the images", "lower", "nats"),)
    loss_unit = "nats"
    nll_metric = "val/loss"
    chains: Tensor
    pixel_states: Tensor
    hidden_states: Tensor

    def __init__(
        self,
        shape: Shape,
        hidden: int = 0,
        *,
        gradient: Gradient = "exact",
        steps: int = 1,
        persistent: int = 100,
        settle: int = 10,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value, smallest in (("hidden", hidden, 0), ("persistent", persistent, 1)):
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, not {value}")
        repeats("steps", steps)
        repeats("settle", settle)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be {' or '.join(GRADIENTS)}, not '{gradient}'")
        pixels, units = math.prod(shape), math.prod(shape) + hidden
        if units > ENUMERABLE:
            raise ValueError(
                f"{pixels} pixels and {hidden} hidden units are too many to enumerate: at most {ENUMERABLE} units in "
                "all, as with dataset=patches dataset.side=4"
            )
        self.shape, self.pixels, self.hidden, self.units = tuple(shape), pixels, hidden, units
        self.gradient, self.steps, self.settle, self.noise = gradient, steps, settle, noise
        self.weight = nn.Parameter(torch.empty(units, units))
        nn.init.normal_(self.weight, std=0.01)
        self.bias = nn.Parameter(torch.zeros(units))
        self.register_buffer("chains", nn.init.uniform_(torch.empty(persistent, units)).round())
        for name, size in (("pixel_states", pixels), ("hidden_states", hidden)):
            self.register_buffer(name, states(size, self.bias.detach()), persistent=False)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Begin with the biases that meet the mean of the training images where there are no weights."""
        total, count = torch.zeros(self.pixels, device=self.bias.device), 0
        for batch in batches:
            total, count = total + batch.x.flatten(1).sum(0), count + len(batch.x)
        self.bias[: self.pixels] = bias_of(total / count)

    def links(self) -> Tensor:
        """Return W, [units, units], from the triangle above the diagonal of `weight`."""
        upper = self.weight.triu(1)
        return upper + upper.T

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return binary draws of grey pixels; of binary ones, themselves."""
        return rng.bernoulli(x)

    def energies(self, s: Tensor) -> Tensor:
        """Return E(s), [N], of states [N, units] of all units."""
        return -0.5 * ((s @ self.links()) * s).sum(1) - s @ self.bias

    def joint(self, v: Tensor, temperature: float = 1.0) -> Tensor:
        """Return -E(v, h) / temperature of pixels v [N, pixels] with each state of the hidden units, [N, 2^hidden]."""
        links, bias, p, h = self.links() / temperature, self.bias / temperature, self.pixels, self.hidden_states
        own = 0.5 * ((v @ links[:p, :p]) * v).sum(1) + v @ bias[:p]
        hidden = 0.5 * ((h @ links[p:, p:]) * h).sum(1) + h @ bias[p:]
        return own[:, None] + v @ links[:p, p:] @ h.T + hidden

    def energy(self, x: Tensor) -> Tensor:
        """Return F(x) = -log Σ_h exp(-E(x, h)), [N] in nats, of images."""
        return -self.joint(x.flatten(1)).logsumexp(1)

    def log_z(self) -> Tensor:
        """Return log Z = log Σ_v exp(-F(v)) in nats, going through all images."""
        return (-self.energy(self.pixel_states)).logsumexp(0)

    @torch.no_grad()
    def gibbs(self, s: Tensor, sweeps: int, rng: Rng, units: Sequence[int]) -> Tensor:
        """Return states [N, units] after `sweeps` sweeps over `units`, s_i ~ s((W s)_i + b_i) one after the other."""
        links, s = self.links(), s.clone()
        for _ in range(sweeps):
            chance = rng.uniform(len(s), self.units)
            for i in units:
                s[:, i] = (chance[:, i] < (s @ links[i] + self.bias[i]).sigmoid()).to(s)
        return s

    def clamped(self, v: Tensor, rng: Rng) -> Tensor:
        """Return states [N, units] whose pixels are v [N, pixels], hidden units by sweeps from independent ones."""
        h = rng.bernoulli(torch.full((len(v), self.hidden), 0.5, device=v.device))
        return self.gibbs(torch.cat([v, h], 1), self.settle, rng, range(self.pixels, self.units))

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x = batch.x if self.noise is None else self.noise(batch.x, rng)
        values = self.both(self.observe(x, rng).flatten(1), rng)
        weights = (self.weight, self.bias)
        gradients = {
            name: average(torch.cat([g.flatten() for g in torch.autograd.grad(value, weights, retain_graph=True)]))
            for name, value in values.items()
        }
        metrics = {f"gradient_{name}": gradient.norm() for name, gradient in gradients.items()}
        cosine = F.cosine_similarity(gradients["exact"], gradients["gibbs"], dim=0)
        yield Loss(values[self.gradient], metrics={"nll": values["exact"].detach(), "cosine": cosine, **metrics})

    def both(self, v: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return the scalars of pixels v [N, pixels] whose gradients are the exact one and that by Gibbs sampling.

        Moves the chains. The second scalar is no likelihood, nor does it come down.
        """
        self.chains.copy_(self.gibbs(self.chains, self.steps, rng.whole, range(self.units)))
        gibbs = self.energies(self.clamped(v, rng)).mean() - self.energies(self.chains).mean()
        return {"exact": self.energy(v).mean() + self.log_z(), "gibbs": gibbs}

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        energy = self.energy(self.observe(batch.x, rng)).mean()
        return {"loss": energy + self.log_z(), "energy": energy}

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n images [n, C, H, W] of independent pixels, from black to white: 1 with a probability ~ U(0, 1)."""
        return rng.bernoulli(rng.uniform(n, 1, 1, 1).expand(-1, *self.shape))

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the images [N, C, H, W] a step later: h ~ p(h|x), drawn exactly, then a sweep over the pixels."""
        v = x.flatten(1)
        h = self.hidden_states[picked(self.joint(v), rng.uniform(len(v), 1)).squeeze(1)]
        s = self.gibbs(torch.cat([v, h], 1), 1, rng, range(self.pixels))
        return s[:, : self.pixels].view_as(x)

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return n independent images [n, C, H, W] of p(v), drawn from the list of all; T makes it p(v, h)^(1/T)."""
        log_p = self.joint(self.pixel_states, max(temperature, COLDEST)).logsumexp(1)
        return self.pixel_states[picked(log_p, rng.uniform(n))].unflatten(1, self.shape)

    @torch.no_grad()
    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z by enumeration, 'exact'."""
        return [Partition(float(self.log_z()), 0.0, "exact")]

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log p(v) = -F(v) - log Z, [N] in nats, of binary draws v of the images: exact."""
        return Score(-self.energy(self.observe(x, rng)) - self.log_z(), "exact", "binary pixels")


def picked(log_p: Tensor, chance: Tensor) -> Tensor:
    """Return positions [..., n] with probabilities ∝ exp(log_p), [..., K], by numbers `chance` [..., n] ~ U(0, 1)."""
    edges = log_p.softmax(-1).cumsum(-1)
    return torch.searchsorted(edges, chance * edges[..., -1:], right=True).clamp_max(edges.shape[-1] - 1)
