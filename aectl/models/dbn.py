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
from aectl.models.networks import Shape, positive, repeats
from aectl.models.partition import bias_of
from aectl.models.rbm import PSEUDO_NLL, RBM, Binarise
from aectl.parallel import average
from aectl.rng import Rng

FOLLOW = 0.01
"""The share of a batch in the running means that a layer begins from."""


class DBN(Model):
    """Layers of binary units, of which the two uppermost are a Boltzmann machine and the others drawn from above.

    p(x, h_1, …, h_L) = p(x|h_1) p(h_1|h_2) … p(h_(L-1), h_L), with p(h_k = 1|h_(k+1)) = s(b_(k+1) + W_(k+1)ᵀ h_(k+1))
    and the last factor the distribution of an RBM, whose Z is the only constant. In stage `layer_k` the RBM of layers
    k - 1 and k alone is trained, as `RBM` describes, on binary draws of the layers below it by q(h_k = 1|h_(k-1)) =
    s(c_k + W_k h_(k-1)); it begins with the biases and the centre that suit the mean of these. Every layer takes
    `layer_epochs` epochs, one number for all or one for each; None: as many as the run has. `steps`, `persistent`,
    `centring` and `weight_decay` are those of the RBMs. Noise corrupts the images.

    log p(x) ≥ E_q[log p(x, h_1 … h_(L-1)) - log q(h_1 … h_(L-1)|x)]: `energy` takes this mean over `draws` draws from
    q and leaves out log Z, so that -energy(x) - log Z is a lower bound.

    'Best' follows the pseudo-likelihood of the uppermost RBM on held-out images. Raises ValueError for fewer than two
    layers or numbers out of range.
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
        positive("widths", widths)
        repeats("draws", draws)
        if len(widths) < 2:
            raise ValueError(f"widths must have two layers at least, not {list(widths)}: one alone is model=rbm")
        epochs = layer_epochs if isinstance(layer_epochs, Sequence) else [layer_epochs] * len(widths)
        if len(epochs) != len(widths):
            raise ValueError(f"layer_epochs must be one number or {len(widths)}, one a layer, not {list(epochs)}")
        positive("layer_epochs", [1 if one is None else one for one in epochs])
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
        """The uppermost RBM, of the last two layers."""
        return self.layers[-1]

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Let the first RBM begin with the mean of the training images."""
        self.layers[0].prepare(batches)

    def stages(self) -> Iterator[Stage]:
        for name, epochs in self.plan.items():
            yield Stage(name, epochs)

    def groups(self, stage: Stage) -> dict[str, Group]:
        return {"model": Group(self.layers[self.place(stage)].parameters())}

    def place(self, stage: Stage) -> int:
        """Return the position, from 0, of the RBM that a stage trains."""
        return list(self.plan).index(stage.name)

    def losses(self, batch: Batch, stage: Stage, rng: Rng) -> Iterator[Loss]:
        k = self.place(stage)
        below = self.below(batch.x if self.noise is None else self.noise(batch.x, rng), k, rng)
        yield from self.layers[k].losses(batch._replace(x=below), stage, rng)
        if k + 1 < len(self.layers):
            self.hand_over(k, below)

    @torch.no_grad()
    def below(self, x: Tensor, k: int, rng: Rng) -> Tensor:
        """Return what RBM k, from 0, is trained on: the images, or the means [N, 1, 1, width] of q(h_k|h_(k-1)).

        Of the layers further down come binary draws; those of h_k itself are drawn by its RBM.
        """
        for layer in self.layers[:k]:
            x = layer.encode(layer.observe(x, rng))[:, None, None]
        return x

    @torch.no_grad()
    def hand_over(self, k: int, below: Tensor) -> None:
        """Let RBM k + 1 begin with the mean of what RBM k makes of its data: biases that meet it, and the centre."""
        layer, above = self.layers[k], self.layers[k + 1]
        above.mean.lerp_(average(layer.encode(layer.expected(below)).mean(0)), FOLLOW)
        above.visible_bias.copy_(bias_of(above.mean))
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
        """Return binary pixels of grey ones, by a draw or by a threshold."""
        return self.layers[0].observe(x, rng)

    def encode(self, x: Tensor) -> Tensor:
        """Return the means of h_L, [N, code], each layer seeing the means of the one below."""
        for layer in self.layers:
            x = layer.encode(x)
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Return the means of x, [N, C, H, W], each layer seeing the means of the one above, h_L = z [N, code]."""
        for layer in reversed(self.layers):
            z = layer.decode(z.flatten(1))
        return z

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return what is decoded of the codes, [N, C, H, W]."""
        return self.decode(self.encode(x))

    def sample(self, n: int, *, rng: Rng, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Return p(x = 1|h_1) for n draws: h_(L-1) by Gibbs sampling in the uppermost RBM, the others downwards.

        `temperature` T makes its distribution p(h_(L-1), h_L)^(1/T).
        """
        means = self.top.sample(n, rng=rng, temperature=temperature)
        for layer in reversed(self.layers[:-1]):
            means = layer.decode(rng.bernoulli(means.flatten(1)))
        return means

    def climb(self, v: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Draw h_1 … h_(L-1) from q(·|v); returns h_(L-1) and log p(v, …, h_(L-2)|h_(L-1)) - log q(…|v), [N]."""
        total, v = torch.zeros(len(v), device=v.device), v.flatten(1)
        for layer in self.layers[:-1]:
            logits = layer.inputs(v)
            h = rng.bernoulli(logits.sigmoid())
            total = total + log_bernoulli(v, layer.outputs(h)) - log_bernoulli(h, logits)
            v = h
        return v, total

    def energy(self, x: Tensor) -> Tensor:
        """Return -E_q[log p(x, h) + log Z - log q(h|x)], [N] in nats, as the mean of `draws` draws.

        Their random numbers are the same at every call, so that the same batch has the same energies.
        """
        rng, total = Rng(0, x.device), torch.zeros(len(x), device=x.device)
        for _ in range(self.draws):
            h, log_ratio = self.climb(x, rng)
            total += self.top.energy(h) - log_ratio
        return total / self.draws

    def log_partition(self, *, rng: Rng) -> list[Partition]:
        """Return log Z of the uppermost RBM by each way that is open to it."""
        return as_bounds(self.top.log_partition(rng=rng))

    @torch.no_grad()
    def log_prob(self, x: Tensor, *, rng: Rng, samples: int | None = None) -> Score:
        """Return log 1/k Σ p(v, h_i) / q(h_i|v), [N] in nats, of binary draws v and k = `samples` (100) draws h_i ~ q.

        A lower bound that grows with k if log Z is exact, else an estimate.
        """
        v = self.observe(x, rng)

        def draw() -> Score:
            h, log_ratio = self.climb(v, rng)
            score = self.top.log_prob(h, rng=rng)
            return score._replace(value=log_ratio + score.value)

        return importance_bound(draw, samples or 100)


def log_bernoulli(states: Tensor, logits: Tensor) -> Tensor:
    """Return Σ_i log p(s_i), [N], of independent binary states [N, units] with these logits."""
    return (states * logits - F.softplus(logits)).sum(1)


def as_bounds(ways: Iterable[Partition]) -> list[Partition]:
    """Return constants of energies whose own -energy(x) - log Z is a bound already, told so."""
    return [way._replace(kind="bound" if way.kind == "exact" else f"bound by {way.kind}") for way in ways]


def importance_bound(draw: Callable[[], Score], k: int) -> Score:
    """Return log 1/k Σ exp(value) of k draws: a 'bound' if each is 'exact', else an 'estimate'."""
    total = draw()
    for _ in range(k - 1):
        total = total._replace(value=torch.logaddexp(total.value, draw().value))
    return total._replace(value=total.value - math.log(k), kind="bound" if total.kind == "exact" else "estimate")
