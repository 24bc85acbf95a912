"""Deep Boltzmann machines (lecture, "Boltzmann Machines"; Salakhutdinov & Hinton 2009)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.models.base import Batch, Loss, Model, Partition, Score, Stage
from aectl.models.dbn import RUNNING_MEAN_RATE, as_bounds, importance_bound, log_bernoulli
from aectl.models.networks import Shape, check_positive, check_repeats
from aectl.models.rbm import BINARISE, FREE_ENERGY, PSEUDO_NLL, RBM, Binarise
from aectl.parallel import average
from aectl.rng import Rng

PROBES, SWEEPS = 3, 3
"""For the pseudo-likelihood: pixels sampled in each image, and mean-field sweeps after a pixel is flipped."""


class DBM(Model):
    """Deep Boltzmann machine: binary pixels v and two layers of binary hidden units h and g.

    E(v, h, g) = -b·v - c·h - d·g - hᵀ W v - hᵀ U g; with `centring`, each unit is replaced by its difference from its
    offset. Pixels v and units g are not connected, so (v, g) and h are the two layers of an RBM, `machine`, with free
    energy F(v, g) = -log Σ_h exp(-E(v, h, g)).

    The loss is the mean F(v, μ) of the data minus the mean F(v, g) of `persistent` Markov chains of that RBM. μ is the
    mean field of g given v, treated as a constant: q(h, g|v) = Π q(h_j) Π q(g_k) is computed by `mean_field` sweeps of
    p(h_j = 1) = s(c + W v + U μ)_j, then μ = s(d + Uᵀ p), s the logistic function. The gradient is that of the
    variational bound: statistics under q minus statistics of the model.

    The bound is log p(v) ≥ E_q[-E] + H(q) - log Z = -F(v, μ) + H(μ) - log Z, and `energy` returns F(v, μ) - H(μ).
    Both layers are trained jointly from the start: centring replaces layer-wise pretraining (Montavon & Müller 2012).
    `steps`, `weight_decay`, `binarise` and noise are as in `RBM`.

    The best checkpoint minimises the negative pseudo-log-likelihood of held-out images, -Σ_i log p(v_i|others), with
    each p computed from the variational bounds of the image and of the image with pixel i flipped. Raises ValueError
    unless there are two hidden layers, or for numbers out of range.
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
            raise ValueError(f"widths must list the sizes of two hidden layers, not {list(widths)}")
        check_positive("widths", widths)
        check_positive("persistent", persistent)
        check_repeats("mean_field", mean_field)
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
        """Weights U between h and g, [widths[0], widths[1]]."""
        return self.machine.weight[:, self.pixels :]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Initialise the pixel means with those of the training images, and the means of g with 0.5."""
        padding = (0, self.links.shape[1])
        self.machine.prepare(
            batch._replace(x=F.pad(self.expected(batch.x).flatten(1), padding, value=0.5)) for batch in batches
        )

    def expected(self, x: Tensor) -> Tensor:
        """Return the means of the binarised pixels."""
        return (x >= 0.5).to(x) if self.binarise == "threshold" else x

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised, at random or by a threshold, as `binarise` says."""
        return self.expected(x) if self.binarise == "threshold" else rng.bernoulli(x)

    @torch.no_grad()
    def infer(self, v: Tensor, mean: Tensor | None = None, sweeps: int | None = None) -> Tensor:
        """Return pixels and mean field of g, concatenated: [v, μ], [N, pixels + widths[1]].

        The sweeps start from `mean` [N, widths[1]], by default the running mean of g. No sweep lowers the bound.
        """
        # The exporter would turn len(v) into a constant.
        machine, v = self.machine, v.flatten(1)
        mean = machine.mean[self.pixels :].expand(v.shape[0], -1) if mean is None else mean
        offset, bias = machine.visible_offset[self.pixels :], machine.visible_bias[self.pixels :]
        seen = machine.inputs(torch.cat([v, offset.expand(v.shape[0], -1)], 1))
        for _ in range(self.sweeps if sweeps is None else sweeps):
            h = (seen + F.linear(mean - offset, self.links)).sigmoid()
            mean = F.linear(h - machine.hidden_offset, self.links.T, bias).sigmoid()
        return torch.cat([v, mean], 1)

    def bound(self, data: Tensor) -> Tensor:
        """Return F(v, μ) - H(μ) [N] for [v, μ] as returned by `infer`."""
        mean = data[:, self.pixels :]
        entropy = torch.special.entr(mean) + torch.special.entr(1 - mean)
        return self.machine.energy(data) - entropy.sum(1)

    def energy(self, x: Tensor) -> Tensor:
        """Return E_q[E] - H(q), [N] in nats; log p(x) ≥ -energy(x) - log Z."""
        return self.bound(self.infer(x))

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        machine = self.machine
        data = self.infer(self.observe(batch.x if self.noise is None else self.noise(batch.x, rng), rng))
        machine.chains.copy_(machine.gibbs(machine.chains, machine.steps, rng.whole))
        value = machine.energy(data).mean() - machine.energy(machine.chains).mean()
        yield Loss(value + machine.decay(), metrics={"energy": self.bound(data).detach().mean()})
        self.update_offsets(data)

    @torch.no_grad()
    def update_offsets(self, data: Tensor) -> None:
        """Move the offsets of h and g towards their means over [v, μ], with biases that keep p(v, h, g) unchanged."""
        machine, mean = self.machine, average(data[:, self.pixels :].mean(0))
        machine.mean[self.pixels :].lerp_(mean, RUNNING_MEAN_RATE)
        if machine.is_centred:
            hidden_mean = average(machine.inputs(data).sigmoid().mean(0))
            offset = machine.visible_offset[self.pixels :]
            change = machine.centring * (mean - offset)
            offset += change
            machine.hidden_bias.add_(self.links @ change)
            machine.update_offsets(hidden_mean)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        machine = self.machine
        data = self.infer(self.observe(batch.x, rng))
        energy, loss = self.bound(data), machine.energy(data).mean() - machine.energy(machine.chains).mean()
        mse = F.mse_loss(self.reconstruct(batch.x), batch.x)
        pseudo_nll = self.pseudo_nll(data, energy, rng, PROBES)
        return {"pseudo_nll": pseudo_nll, "loss": loss + machine.decay(), "energy": energy.mean(), "mse": mse}

    @torch.no_grad()
    def pseudo_nll(self, data: Tensor, energy: Tensor, rng: Rng, probes: int) -> Tensor:
        """Return the mean of -Σ_i log p(v_i|others) in nats, estimated from `probes` random pixels of each image.

        p(v_i|others) = s(energy of v with pixel i flipped - energy of v). The mean field of the flipped image starts
        from that of v.
        """
        v, mean = data[:, : self.pixels], data[:, self.pixels :]
        terms = []
        for i in (rng.uniform(probes, len(v), batch=1) * self.pixels).long():
            flipped = v.scatter(1, i[:, None], 1 - v.gather(1, i[:, None]))
            terms.append(F.softplus(energy - self.bound(self.infer(flipped, mean, SWEEPS))))
        return self.pixels * torch.stack(terms).mean()

    def encode(self, x: Tensor) -> Tensor:
        """Return the mean fields of h and g, concatenated: [N, widths[0] + widths[1]]."""
        data = self.infer(x)
        return torch.cat([self.machine.encode(data), data[:, self.pixels :]], 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return p(v = 1|h) at the mean field of h, [N, C, H, W]."""
        return self.images(self.machine.reconstruct(self.infer(x)))

    def images(self, states: Tensor) -> Tensor:
        """Return the pixels [N, C, H, W] of states, or means, of (v, g)."""
        return states.flatten(1)[:, : self.pixels].unflatten(1, self.shape)

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return p(v = 1|h) after `sample_steps` steps of Gibbs sampling of all units, for n chains.

        The chains start from independent pixels with the means of the training images. `temperature` T samples from
        p(v, h, g)^(1/T).
        """
        return self.images(self.machine.sample(n, rng=rng, temperature=temperature))

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z of all units: exact if one side of the RBM is small enough, then AIS and reverse AIS."""
        return as_bounds(self.machine.log_partition(rng=rng))

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log 1/k Σ p(v, g_i) / q(g_i|v), [N] in nats, for binarised v and k = `samples` (100) draws g_i ~ q.

        h is summed out. If log Z is exact this is a lower bound that increases with k, otherwise an estimate.
        """
        data = self.infer(self.observe(x, rng))
        v, mean = data[:, : self.pixels], data[:, self.pixels :]
        logits = mean.logit(1e-6)

        def draw() -> Score:
            g = rng.bernoulli(logits.sigmoid())
            score = self.machine.log_prob(torch.cat([v, g], 1), rng=rng)
            return score._replace(value=score.value - log_bernoulli(g, logits))

        return importance_bound(draw, samples or 100)
