"""Deep belief networks (lecture, "Boltzmann Machines"; Hinton, Osindero & Teh 2006)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aectl.metric import Metric
from aectl.models.base import Batch, Group, Loss, Model, Partition, Score, Stage
from aectl.models.networks import Shape, check_positive, check_repeats
from aectl.models.partition import mean_to_bias
from aectl.models.rbm import PSEUDO_NLL, RBM, Binarise
from aectl.parallel import average
from aectl.rng import Rng

RUNNING_MEAN_RATE = 0.01
"""Weight of a batch in the running means of hidden units."""


class DBN(Model):
    """Deep belief network: the top two layers form an RBM, and each layer below is generated from the one above.

    p(x, h_1, …, h_L) = p(x|h_1) p(h_1|h_2) … p(h_(L-1), h_L), with p(h_k = 1|h_(k+1)) = s(b_(k+1) + W_(k+1)ᵀ h_(k+1)),
    s the logistic function. The last factor is the distribution of an RBM; its Z is the only normalising constant.

    Training is greedy. Stage `layer_k` trains only the RBM between layers k - 1 and k (see `RBM`), on binary samples
    of layer k - 1 drawn upwards from the images by q(h_k = 1|h_(k-1)) = s(c_k + W_k h_(k-1)). Its biases and offsets
    start from the means of those samples. Each layer takes `layer_epochs` epochs: one number for all, a list with one
    for each, or None for the run's number. `steps`, `persistent`, `centring` and `weight_decay` apply to every RBM.
    Noise corrupts the images.

    The bound is log p(x) ≥ E_q[log p(x, h_1 … h_(L-1)) - log q(h_1 … h_(L-1)|x)]. `energy` estimates it by `draws`
    samples from q and omits log Z, so -energy(x) - log Z is a lower bound.

    The best checkpoint minimises the negative pseudo-log-likelihood of the top RBM on held-out images. Raises
    ValueError for fewer than two layers or numbers out of range.
    """

    metrics: ClassVar = (
        PSEUDO_NLL,
        Metric("pseudo_nll_*", "negative pseudo-log-likelihood of this layer's input", unit="nats per image"),
        Metric("mse_*", "mean squared error of this layer in reconstructing its input"),
    )
    metric_settings: ClassVar = {"pseudo_nll": ("binarise",)}
    objective = "val/pseudo_nll"
    layers: Sequence[RBM]

    def __init__(
        self,
        shape: Shape,
        widths: Sequence[int],
        *,
        layer_epochs: int | Sequence[int] | None = None,
        steps: int = 1,
        persistent: int = 100,
        centring: float = 0.01,
        weight_decay: float = 0.0,
        binarise: Binarise = "draw",
        draws: int = 10,
        sample_steps: int = 200,
        temperatures: int = 1000,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_positive("widths", widths)
        check_repeats("draws", draws)
        if len(widths) < 2:
            raise ValueError(f"widths must list at least two layers, not {list(widths)}; for one layer use model=rbm")
        epochs = layer_epochs if isinstance(layer_epochs, Sequence) else [layer_epochs] * len(widths)
        if len(epochs) != len(widths):
            raise ValueError(f"layer_epochs must be a number, or a list of {len(widths)}, not {list(epochs)}")
        check_positive("layer_epochs", [1 if one is None else one for one in epochs])
        self.code, self.draws, self.noise = widths[-1], draws, noise
        self.plan = {f"layer_{k}": length for k, length in enumerate(epochs, 1)}
        settings: dict[str, Any] = {
            "steps": steps,
            "persistent": persistent,
            "centring": centring,
            "weight_decay": weight_decay,
        }
        settings |= {"sample_steps": sample_steps, "temperatures": temperatures}
        upper = (RBM((1, 1, below), width, **settings) for below, width in pairwise(widths))
        layers = nn.ModuleList([RBM(shape, widths[0], binarise=binarise, **settings), *upper])
        self.layers = cast("Sequence[RBM]", layers)

    @property
    def top(self) -> RBM:
        """The RBM of the last two layers."""
        return self.layers[-1]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Initialise the first RBM from the mean of the training images."""
        self.layers[0].prepare(batches)

    def stages(self) -> Iterator[Stage]:
        for name, epochs in self.plan.items():
            yield Stage(name, epochs)

    def groups(self, stage: Stage) -> dict[str, Group]:
        return {"model": Group(self.layers[self.layer_index(stage)].parameters())}

    def layer_index(self, stage: Stage) -> int:
        """Return the index of the RBM that a stage trains, from 0."""
        return list(self.plan).index(stage.name)

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        k = self.layer_index(stage)
        below = self.layer_input(batch.x if self.noise is None else self.noise(batch.x, rng), k, rng)
        yield from self.layers[k].losses(batch._replace(x=below), stage, rng)
        if k + 1 < len(self.layers):
            self.initialise_next_layer(k, below)

    @torch.no_grad()
    def layer_input(self, x: Tensor, k: int, rng: Rng) -> Tensor:
        """Return the input of RBM k, from 0: the images, or the means [N, 1, 1, width] of q(h_k|h_(k-1)).

        Units of the layers below are sampled; the RBM itself samples its input h_k.
        """
        for layer in self.layers[:k]:
            x = layer.encode(layer.observe(x, rng))[:, None, None]
        return x

    @torch.no_grad()
    def initialise_next_layer(self, k: int, below: Tensor) -> None:
        """Set visible biases and offsets of RBM k + 1 from the mean activity of RBM k's hidden units."""
        layer, above = self.layers[k], self.layers[k + 1]
        above.mean.lerp_(average(layer.encode(layer.expected(below)).mean(0)), RUNNING_MEAN_RATE)
        above.visible_bias.copy_(mean_to_bias(above.mean))
        if above.is_centred:
            above.visible_offset.copy_(above.mean)

    def validate(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        metrics: dict[str, Tensor] = {}
        x = batch.x
        for k, layer in enumerate(self.layers, 1):
            found = layer.validate(batch._replace(x=x), rng)
            metrics |= {f"{name}_{k}": found[name] for name in ("pseudo_nll", "mse")}
            x = layer.encode(layer.observe(x, rng))[:, None, None]
        mse = F.mse_loss(self.reconstruct(batch.x), batch.x)
        return {"pseudo_nll": metrics[f"pseudo_nll_{len(self.layers)}"], "mse": mse, **metrics}

    def observe(self, x: Tensor, rng: Rng) -> Tensor:
        """Return x binarised, at random or by a threshold, as `binarise` says."""
        return self.layers[0].observe(x, rng)

    def encode(self, x: Tensor) -> Tensor:
        """Return the means of h_L [N, code], propagating means from layer to layer."""
        for layer in self.layers:
            x = layer.encode(x)
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Return the means of x [N, C, H, W] for h_L = z [N, code], propagating means from layer to layer."""
        for layer in reversed(self.layers):
            z = layer.decode(z.flatten(1))
        return z

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the decoded codes of x, [N, C, H, W]."""
        return self.decode(self.encode(x))

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return p(x = 1|h_1) for n samples: Gibbs sampling of h_(L-1) in the top RBM, then downwards layer by layer.

        `temperature` T samples from p(h_(L-1), h_L)^(1/T) in the top RBM.
        """
        means = self.top.sample(n, rng=rng, temperature=temperature)
        for layer in reversed(self.layers[:-1]):
            means = layer.decode(rng.bernoulli(means.flatten(1)))
        return means

    def sample_upwards(self, v: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Sample h_1 … h_(L-1) from q(·|v); return h_(L-1) and log p(v, …, h_(L-2)|h_(L-1)) - log q(…|v), [N]."""
        total, v = torch.zeros(len(v), device=v.device), v.flatten(1)
        for layer in self.layers[:-1]:
            logits = layer.inputs(v)
            h = rng.bernoulli(logits.sigmoid())
            total = total + log_bernoulli(v, layer.outputs(h)) - log_bernoulli(h, logits)
            v = h
        return v, total

    def energy(self, x: Tensor) -> Tensor:
        """Return -E_q[log p(x, h) + log Z - log q(h|x)], [N] in nats, averaged over `draws` samples from q.

        The random numbers are the same at every call, so the same batch always has the same energies.
        """
        rng, total = Rng(0, x.device), torch.zeros(len(x), device=x.device)
        for _ in range(self.draws):
            h, log_ratio = self.sample_upwards(x, rng)
            total += self.top.energy(h) - log_ratio
        return total / self.draws

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z of the top RBM by every available method."""
        return as_bounds(self.top.log_partition(rng=rng))

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log 1/k Σ p(v, h_i) / q(h_i|v), [N] in nats, for binarised v and k = `samples` (100) draws h_i ~ q.

        If log Z is exact this is a lower bound that increases with k, otherwise an estimate.
        """
        v = self.observe(x, rng)

        def draw() -> Score:
            h, log_ratio = self.sample_upwards(v, rng)
            score = self.top.log_prob(h, rng=rng)
            return score._replace(value=log_ratio + score.value)

        return importance_bound(draw, samples or 100)


def log_bernoulli(states: Tensor, logits: Tensor) -> Tensor:
    """Return Σ_i log p(s_i) [N] of independent binary states [N, units] with the given logits."""
    return (states * logits - F.softplus(logits)).sum(1)


def as_bounds(ways: Iterable[Partition]) -> list[Partition]:
    """Label the constants as bounds, for energies with which -energy(x) - log Z is a lower bound of log p(x)."""
    return [way._replace(kind="bound" if way.kind == "exact" else f"bound by {way.kind}") for way in ways]


def importance_bound(draw: Callable[[], Score], k: int) -> Score:
    """Return log 1/k Σ exp(value) over k draws: a 'bound' if every draw is 'exact', otherwise an 'estimate'."""
    total = draw()
    for _ in range(k - 1):
        total = total._replace(value=torch.logaddexp(total.value, draw().value))
    return total._replace(value=total.value - math.log(k), kind="bound" if total.kind == "exact" else "estimate")
