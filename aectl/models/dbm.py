"""Deep Boltzmann machines (lecture, "Boltzmann Machines"; Salakhutdinov & Hinton 2009)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.models.base import Batch, Loss, Model, Partition, Score, Stage
from aectl.models.dbn import FOLLOW, as_bounds, importance_bound, log_bernoulli
from aectl.models.networks import Shape, positive, repeats
from aectl.models.rbm import BINARISE, FREE_ENERGY, PSEUDO_NLL, RBM, Binarise
from aectl.parallel import average
from aectl.rng import Rng

PROBES, SWEEPS = 3, 3
"""Pixels of each image that the pseudo-likelihood is taken of, and sweeps of the mean field once one has changed."""


class DBM(Model):
    """Binary pixels v and two layers of binary hidden units, h and g, joined layer by layer and all undirected.

    E(v, h, g) = -b·v - c·h - d·g - hᵀ W v - hᵀ U g, every unit less its offset where there is `centring`. Pixels and g
    do not meet: together they are one side of a restricted Boltzmann machine whose other side is h, `machine`, and with
    F(v, g) = -log Σ_h exp(-E(v, h, g)) its free energy, the loss is F(v, μ) of the data less F(v, g) of `persistent`
    chains of that machine, as means. μ [g] is the mean field of the data, held fixed: q(h, g|v) = Π q(h_j) Π q(g_k) by
    `mean_field` sweeps, p(h_j = 1) = s(c + W v + U μ)_j, then μ = s(d + Uᵀ p). The gradient is that of the variational
    bound, the statistics under q less those of the model.

    log p(v) ≥ E_q[-E] + H(q) - log Z = -F(v, μ) + H(μ) - log Z, which `energy` is of. Layers are trained together from
    the start: centring takes the place of training them one by one first (Montavon & Müller 2012). `steps`,
    `weight_decay`, `binarise` and noise are as in `RBM`.

    'Best' follows the pseudo-likelihood of held-out images, -Σ_i log p(v_i|others), each p by the variational bounds
    of both its images. Raises ValueError unless there are two hidden layers, or for numbers out of range.
    """

    metrics: ClassVar = (PSEUDO_NLL, FREE_ENERGY)
    metric_settings: ClassVar = {"pseudo_nll": ("binarise",)}
    objective = "val/pseudo_nll"
    loss_unit = "nats"
    nll_metric = "val/pseudo_nll"

    def __init__(
        self,
        shape: Shape,
        widths: Sequence[int],
        *,
        mean_field: int = 10,
        steps: int = 1,
        persistent: int = 100,
        centring: float = 0.01,
        weight_decay: float = 0.0,
        binarise: Binarise = "draw",
        sample_steps: int = 200,
        temperatures: int = 1000,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(widths) != 2:
            raise ValueError(f"widths must be those of two hidden layers, not {list(widths)}")
        positive("widths", widths)
        positive("persistent", persistent)
        repeats("mean_field", mean_field)
        if binarise not in BINARISE:
            raise ValueError(f"binarise must be {' or '.join(BINARISE)}, not '{binarise}'")
        self.shape, self.pixels, self.binarise = tuple(shape), math.prod(shape), binarise
        self.code, self.sweeps, self.noise = sum(widths), mean_field, noise
        self.machine = RBM(
            (1, 1, self.pixels + widths[1]),
            widths[0],
            steps=steps,
            persistent=persistent,
            centring=centring,
            weight_decay=weight_decay,
            sample_steps=sample_steps,
            temperatures=temperatures,
        )

    @property
    def links(self) -> Tensor:
        """U, [widths[0], widths[1]]."""
        return self.machine.weight[:, self.pixels :]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Let the pixels begin with the mean of the training images, and g with one half."""
        beside = (0, self.links.shape[1])
        self.machine.prepare(
            batch._replace(x=F.pad(self.expected(batch.x).flatten(1), beside, value=0.5)) for batch in batches
        )

    def expected(self, x: Tensor) -> Tensor:
        """Return the mean of the binary pixels that stand for the grey ones."""
        return (x >= 0.5).to(x) if self.binarise == "threshold" else x

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return binary pixels of grey ones, by a draw or by a threshold."""
        return self.expected(x) if self.binarise == "threshold" else rng.bernoulli(x)

    @torch.no_grad()
    def infer(self, v: Tensor, mean: Tensor | None = None, sweeps: int | None = None) -> Tensor:
        """Return the pixels and the mean field of g beside them, [v, μ], [N, pixels + widths[1]].

        The sweeps start at `mean` [N, widths[1]], else at the mean of g over data; each raises the bound, or leaves it.
        """
        # v.shape[0] and not len(v), which the exporter would take for a constant.
        machine, v = self.machine, v.flatten(1)
        mean = machine.mean[self.pixels :].expand(v.shape[0], -1) if mean is None else mean
        offset, bias = machine.visible_offset[self.pixels :], machine.visible_bias[self.pixels :]
        seen = machine.inputs(torch.cat([v, offset.expand(v.shape[0], -1)], 1))
        for _ in range(self.sweeps if sweeps is None else sweeps):
            h = (seen + F.linear(mean - offset, self.links)).sigmoid()
            mean = F.linear(h - machine.hidden_offset, self.links.T, bias).sigmoid()
        return torch.cat([v, mean], 1)

    def bound(self, data: Tensor) -> Tensor:
        """Return F(v, μ) - H(μ), [N], of pixels and mean fields [v, μ], as `infer` gives them."""
        mean = data[:, self.pixels :]
        entropy = torch.special.entr(mean) + torch.special.entr(1 - mean)
        return self.machine.energy(data) - entropy.sum(1)

    def energy(self, x: Tensor) -> Tensor:
        """Return E_q[E] - H(q), [N] in nats, of images x: log p(x) is at least -energy(x) - log Z."""
        return self.bound(self.infer(x))

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        machine = self.machine
        data = self.infer(self.observe(batch.x if self.noise is None else self.noise(batch.x, rng), rng))
        machine.chains.copy_(machine.gibbs(machine.chains, machine.steps, rng.whole))
        value = machine.energy(data).mean() - machine.energy(machine.chains).mean()
        yield Loss(value + machine.decay(), metrics={"energy": self.bound(data).detach().mean()})
        self.follow(data)

    @torch.no_grad()
    def follow(self, data: Tensor) -> None:
        """Move the offsets of h and g towards their means over [v, μ], and biases so that p(v, h, g) stays the same."""
        machine, mean = self.machine, average(data[:, self.pixels :].mean(0))
        machine.mean[self.pixels :].lerp_(mean, FOLLOW)
        if machine.is_centred:
            hidden_mean = average(machine.inputs(data).sigmoid().mean(0))
            offset = machine.visible_offset[self.pixels :]
            change = machine.centring * (mean - offset)
            offset += change
            machine.hidden_bias.add_(self.links @ change)
            machine.follow(hidden_mean)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        machine = self.machine
        data = self.infer(self.observe(batch.x, rng))
        energy, loss = self.bound(data), machine.energy(data).mean() - machine.energy(machine.chains).mean()
        mse = F.mse_loss(self.reconstruct(batch.x), batch.x)
        pseudo_nll = self.pseudo_nll(data, energy, rng, PROBES)
        return {"pseudo_nll": pseudo_nll, "loss": loss + machine.decay(), "energy": energy.mean(), "mse": mse}

    @torch.no_grad()
    def pseudo_nll(self, data: Tensor, energy: Tensor, rng: Rng, probes: int) -> Tensor:
        """Return the mean of -Σ_i log p(v_i|others) in nats, extrapolated from `probes` pixels of each image.

        p(v_i|others) = s(energy of v with pixel i flipped - energy of v), whose mean field starts at that of v.
        """
        v, mean = data[:, : self.pixels], data[:, self.pixels :]
        terms = []
        for i in (rng.uniform(probes, len(v), batch=1) * self.pixels).long():
            flipped = v.scatter(1, i[:, None], 1 - v.gather(1, i[:, None]))
            terms.append(F.softplus(energy - self.bound(self.infer(flipped, mean, SWEEPS))))
        return self.pixels * torch.stack(terms).mean()

    def encode(self, x: Tensor) -> Tensor:
        """Return the mean fields of h and g, [N, widths[0] + widths[1]]."""
        data = self.infer(x)
        return torch.cat([self.machine.encode(data), data[:, self.pixels :]], 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return p(v = 1|h) at the mean field of h, [N, C, H, W]."""
        return self.images(self.machine.reconstruct(self.infer(x)))

    def images(self, states: Tensor) -> Tensor:
        """Return the pixels [N, C, H, W] of states or means of pixels and g."""
        return states.flatten(1)[:, : self.pixels].unflatten(1, self.shape)

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return p(v = 1|h) at the end of n chains of `sample_steps` steps of Gibbs sampling of all units.

        They start at independent pixels of the training images' means; `temperature` T makes it p(v, h, g)^(1/T).
        """
        return self.images(self.machine.sample(n, rng=rng, temperature=temperature))

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z of all units: exactly where h, or pixels and g together, are few, then by AIS both ways."""
        return as_bounds(self.machine.log_partition(rng=rng))

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log 1/k Σ p(v, g_i) / q(g_i|v), [N] in nats, of binary draws v and k = `samples` (100) draws g_i ~ q.

        h is summed out. A lower bound that grows with k if log Z is exact, else an estimate.
        """
        data = self.infer(self.observe(x, rng))
        v, mean = data[:, : self.pixels], data[:, self.pixels :]
        logits = mean.logit(1e-6)

        def draw() -> Score:
            g = rng.bernoulli(logits.sigmoid())
            score = self.machine.log_prob(torch.cat([v, g], 1), rng=rng)
            return score._replace(value=score.value - log_bernoulli(g, logits))

        return importance_bound(draw, samples or 100)
