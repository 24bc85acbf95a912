"""Fully connected Boltzmann machines, small enough for exact enumeration (Ackley, Hinton & Sejnowski 1985)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Loss, Model, Partition, Score, Stage
from aectl.models.networks import Shape, check_repeats
from aectl.models.partition import ENUMERABLE, enumerate_states, mean_to_bias
from aectl.models.rbm import MIN_TEMPERATURE
from aectl.parallel import average
from aectl.rng import Rng

Gradient = Literal["exact", "gibbs"]
GRADIENTS = get_args(Gradient)


class Boltzmann(Model):
    """Boltzmann machine over binary units s = (v, h), pixels v and hidden units h: p(s) = exp(-E(s)) / Z.

    E(s) = -½ sᵀ W s - b·s, with W symmetric and zero on its diagonal; every pair of units is connected. Two gradients
    of the negative log-likelihood F(v) + log Z are computed:

    - exact: enumerates all 2^(pixels + hidden) states for F(v) = -log Σ_h exp(-E(v, h)) and Z = Σ_v exp(-F(v)).
    - gibbs: the mean E(s) of the data minus the mean E(s) of `persistent` Markov chains, i.e. the difference of the
      moments <s sᵀ>. The hidden units of the data take `settle` Gibbs sweeps with the pixels clamped. The chains take
      `steps` sweeps over all units and persist between batches. A sweep samples each unit in turn, given all others.

    `gradient` selects the one used for training. The norms of both and the `cosine` between them are logged at every
    step. Noise corrupts the images, and grey pixels are binarised at random.

    Raises ValueError for more than ENUMERABLE units, an unknown gradient or numbers out of range.
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
        check_repeats("steps", steps)
        check_repeats("settle", settle)
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
            self.register_buffer(name, enumerate_states(size, self.bias.detach()), persistent=False)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Set the pixel biases so that, without weights, each pixel has the mean of the training images."""
        total, count = torch.zeros(self.pixels, device=self.bias.device), 0
        for batch in batches:
            total, count = total + batch.x.flatten(1).sum(0), count + len(batch.x)
        self.bias[: self.pixels] = mean_to_bias(total / count)

    def links(self) -> Tensor:
        """Return W [units, units], symmetric, built from the upper triangle of `weight`."""
        upper = self.weight.triu(1)
        return upper + upper.T

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised at random; binary pixels stay as they are."""
        return rng.bernoulli(x)

    def energies(self, s: Tensor) -> Tensor:
        """Return E(s) [N] of states s [N, units] of all units."""
        return -0.5 * ((s @ self.links()) * s).sum(1) - s @ self.bias

    def joint(self, v: Tensor, temperature: float = 1.0) -> Tensor:
        """Return -E(v, h) / temperature [N, 2^hidden] for pixels v [N, pixels] and every hidden state h."""
        links, bias, p, h = self.links() / temperature, self.bias / temperature, self.pixels, self.hidden_states
        own = 0.5 * ((v @ links[:p, :p]) * v).sum(1) + v @ bias[:p]
        hidden = 0.5 * ((h @ links[p:, p:]) * h).sum(1) + h @ bias[p:]
        return own[:, None] + v @ links[:p, p:] @ h.T + hidden

    def energy(self, x: Tensor) -> Tensor:
        """Return the free energies F(x) = -log Σ_h exp(-E(x, h)), [N] in nats."""
        return -self.joint(x.flatten(1)).logsumexp(1)

    def log_z(self) -> Tensor:
        """Return log Z = log Σ_v exp(-F(v)) in nats, by enumerating all images."""
        return (-self.energy(self.pixel_states)).logsumexp(0)

    @torch.no_grad()
    def gibbs(self, s: Tensor, sweeps: int, rng: Rng, units: Sequence[int]) -> Tensor:
        """Return states [N, units] after `sweeps` Gibbs sweeps over `units`: p(s_i = 1|others) = σ((W s)_i + b_i)."""
        links, s = self.links(), s.clone()
        for _ in range(sweeps):
            chance = rng.uniform(len(s), self.units)
            for i in units:
                s[:, i] = (chance[:, i] < (s @ links[i] + self.bias[i]).sigmoid()).to(s)
        return s

    def sample_clamped(self, v: Tensor, rng: Rng) -> Tensor:
        """Return states [N, units] with pixels v [N, pixels]; hidden units take `settle` sweeps from a random state."""
        h = rng.bernoulli(torch.full((len(v), self.hidden), 0.5, device=v.device))
        return self.gibbs(torch.cat([v, h], 1), self.settle, rng, range(self.pixels, self.units))

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        x = batch.x if self.noise is None else self.noise(batch.x, rng)
        values = self.compute_scalars(self.observe(x, rng).flatten(1), rng)
        weights = (self.weight, self.bias)
        gradients = {
            name: average(torch.cat([g.flatten() for g in torch.autograd.grad(value, weights, retain_graph=True)]))
            for name, value in values.items()
        }
        metrics = {f"gradient_{name}": gradient.norm() for name, gradient in gradients.items()}
        cosine = F.cosine_similarity(gradients["exact"], gradients["gibbs"], dim=0)
        yield Loss(values[self.gradient], metrics={"nll": values["exact"].detach(), "cosine": cosine, **metrics})

    def compute_scalars(self, v: Tensor, rng: Rng) -> dict[str, Tensor]:
        """Return two scalars for pixels v [N, pixels], whose gradients are the exact and the Gibbs gradient.

        Advances the chains. Only the exact scalar is a negative log-likelihood; the other need not decrease.
        """
        self.chains.copy_(self.gibbs(self.chains, self.steps, rng.whole, range(self.units)))
        gibbs = self.energies(self.sample_clamped(v, rng)).mean() - self.energies(self.chains).mean()
        return {"exact": self.energy(v).mean() + self.log_z(), "gibbs": gibbs}

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        energy = self.energy(self.observe(batch.x, rng)).mean()
        return {"loss": energy + self.log_z(), "energy": energy}

    def start(self, n: int, *, rng: Rng) -> Tensor:
        """Return n images [n, C, H, W] of independent pixels, each image with its own p(pixel = 1) ~ U(0, 1)."""
        return rng.bernoulli(rng.uniform(n, 1, 1, 1).expand(-1, *self.shape))

    def walk(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the images [N, C, H, W] after one step: sample h ~ p(h|x) exactly, then sweep over the pixels."""
        v = x.flatten(1)
        h = self.hidden_states[sample_categorical(self.joint(v), rng.uniform(len(v), 1)).squeeze(1)]
        s = self.gibbs(torch.cat([v, h], 1), 1, rng, range(self.pixels))
        return s[:, : self.pixels].view_as(x)

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return n exact samples [n, C, H, W] of p(v), drawn from the list of all images.

        `temperature` T samples from p(v, h)^(1/T) instead.
        """
        log_p = self.joint(self.pixel_states, max(temperature, MIN_TEMPERATURE)).logsumexp(1)
        return self.pixel_states[sample_categorical(log_p, rng.uniform(n))].unflatten(1, self.shape)

    @torch.no_grad()
    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z by enumeration, 'exact'."""
        return [Partition(float(self.log_z()), 0.0, "exact")]

    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return the exact log p(v) = -F(v) - log Z, [N] in nats, of the binarised images v."""
        return Score(-self.energy(self.observe(x, rng)) - self.log_z(), "exact", "binary pixels")


def sample_categorical(log_p: Tensor, chance: Tensor) -> Tensor:
    """Return indices [..., n] drawn with probabilities ∝ exp(log_p).

    log_p is [..., K], and `chance` [..., n] holds uniform numbers in [0, 1).
    """
    edges = log_p.softmax(-1).cumsum(-1)
    return torch.searchsorted(edges, chance * edges[..., -1:], right=True).clamp_max(edges.shape[-1] - 1)
