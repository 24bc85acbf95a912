"""Normalising constants of binary energies over two layers: by enumeration, and by annealed importance sampling.

An energy is E(v, h) = -b·v - c·h - hᵀ W v over v in {0, 1}^V and h in {0, 1}^H, with `weights` W [H, V], `visible_bias`
b [V] and `hidden_bias` c [H]. Only the graph has to have two sides: of three layers in a row the middle one is a side,
and the outer two, side by side, are the other. Either side may be called visible. Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aectl.models.base import Partition
from aectl.rng import Rng

ENUMERABLE = 20
"""Units of a layer whose states, 2^20, can be gone through in seconds."""
TEMPERATURES = 10_000
CHAINS = 100


def is_enumerable(weights: Tensor) -> bool:
    """Return whether a side of the energy is small enough for `exact`."""
    return min(weights.shape) <= ENUMERABLE


def exact(weights: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Partition:
    """Return log Z = log Σ_v Σ_h exp(-E(v, h)), going through the states of the smaller side, 'exact'.

    The other side is summed in closed form: Σ_h exp(-E(v, h)) = exp(b·v) Π_j (1 + exp(c_j + W_j v)). Raises ValueError
    if both sides have more than ENUMERABLE units.
    """
    if not is_enumerable(weights):
        raise ValueError(f"one side must have at most {ENUMERABLE} units, not {min(weights.shape)}")
    weights, bias, other_bias = doubled(weights, visible_bias, hidden_bias)
    if len(other_bias) < len(bias):
        weights, bias, other_bias = weights.T, other_bias, bias
    half = len(bias) // 2
    # A state is two halves, whose shares in what the other side sees add up: no product of matrices for each state.
    low, high = states(half, weights), states(len(bias) - half, weights)
    seen_low, seen_high = low @ weights[:, :half].T + other_bias, high @ weights[:, half:].T
    own_low, own_high = low @ bias[:half], high @ bias[half:]
    sums = [
        (own + own_low + F.softplus(seen + seen_low).sum(1)).logsumexp(0)
        for own, seen in zip(own_high, seen_high, strict=True)
    ]
    return Partition(float(torch.stack(sums).logsumexp(0)), 0.0, "exact")


def ais(
    weights: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    *,
    rng: Rng,
    base_bias: Tensor | None = None,
    base_hidden_bias: Tensor | None = None,
    chains: int = CHAINS,
    betas: Tensor | int = TEMPERATURES,
) -> Partition:
    """Return log Z by annealed importance sampling from independent units to the model, 'AIS'.

    The path is E_β = (1 - β) E_0 + β E for the inverse temperatures `betas` (increasing from 0 to 1; of a number, so
    many evenly spaced ones), E_0 having no weights and the biases `base_bias` [V] and `base_hidden_bias` [H], 0 unless
    given: the nearer E_0 is to the data, the better, so that of pixels take `bias_of` their mean. The states are of v,
    h is summed out: log w = Σ_k F_{k-1}(v_k) - F_k(v_k), F_k the free energy at the k-th temperature. The mean of the
    weights is unbiased for Z / Z_0, so that log Z is too low in the mean, and log p(x) too high. Sources: Neal 2001;
    Salakhutdinov & Murray 2008.
    """
    path = Path.of(weights, visible_bias, hidden_bias, base_bias, base_hidden_bias)
    v = draw(path.base_bias.expand(chains, -1), rng)
    log_weights = path.anneal(v, spaced(betas), rng)
    return Partition(path.base_log_partition + log_mean(log_weights), interval(log_weights), "AIS")


def reverse_ais(
    weights: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    start: Tensor,
    *,
    rng: Rng,
    base_bias: Tensor | None = None,
    base_hidden_bias: Tensor | None = None,
    betas: Tensor | int = TEMPERATURES,
) -> Partition:
    """Return log Z by annealing from states `start` [chains, V] of the model to independent units, 'reverse AIS'.

    The same path as `ais`, backwards: the mean of the weights is unbiased for Z_0 / Z, so that log Z is too high in
    the mean, and log p(x) too low, provided that `start` is distributed as the model says. Long Gibbs chains come near
    that, and where they do not, this is no bound; states that are far from it make it too low. Source: Burda, Grosse &
    Salakhutdinov 2015, "Accurate and conservative estimates of MRF log-likelihood using reverse annealing".
    """
    path = Path.of(weights, visible_bias, hidden_bias, base_bias, base_hidden_bias)
    log_weights = path.anneal(start, spaced(betas).flip(0), rng)
    return Partition(path.base_log_partition - log_mean(log_weights), interval(log_weights), "reverse AIS")


def bias_of(mean: Tensor, least: float = 0.001) -> Tensor:
    """Return the biases log(p / (1 - p)) of independent units with the means p, cut to [least, 1 - least]."""
    return mean.clamp(least, 1 - least).logit()


def spaced(betas: Tensor | int) -> Tensor:
    """Return the inverse temperatures, of a number so many from 0 to 1."""
    return torch.linspace(0, 1, betas, dtype=torch.float64) if isinstance(betas, int) else betas.double()


def states(units: int, like: Tensor) -> Tensor:
    """Return all states [2^units, units] of a layer, in the type and on the device of `like`."""
    numbers = torch.arange(2**units, device=like.device)[:, None]
    return (numbers >> torch.arange(units, device=like.device) & 1).to(like)


def log_mean(log_weights: Tensor) -> float:
    """Return the logarithm of the mean of weights given by their logarithms [N]."""
    return float(log_weights.logsumexp(0)) - math.log(len(log_weights))


def interval(log_weights: Tensor) -> float:
    """Return half the width of the 95 % confidence interval of `log_mean`, in nats.

    1.96 standard errors of the mean weight relative to it: the first order of its logarithm. Where a few weights make
    up the whole mean it is too narrow; it nears 1.96 when there is a single one.
    """
    weights = (log_weights - log_weights.max()).exp()
    return float(1.96 * weights.std() / weights.mean() / len(weights) ** 0.5) if len(weights) > 1 else math.inf


def doubled(*parts: Tensor) -> Iterator[Tensor]:
    """Yield tensors in float64, where a device has none, on the CPU."""
    for part in parts:
        yield part.detach().to("cpu" if part.device.type == "mps" else part.device, torch.float64)


def draw(logits: Tensor, rng: Rng) -> Tensor:
    """Return binary states with the given logits, in their type."""
    return (rng.uniform(*logits.shape).to(logits.device) < logits.sigmoid()).to(logits)


class Path(NamedTuple):
    """The way E_β = (1 - β) E_0 + β E from an energy E_0 of independent units to an energy E, in float64."""

    weights: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor
    base_bias: Tensor
    base_hidden_bias: Tensor

    @classmethod
    def of(
        cls, weights: Tensor, visible: Tensor, hidden: Tensor, base: Tensor | None, base_hidden: Tensor | None
    ) -> Path:
        """Return the path to an energy from the given biases, 0 where they are not given."""
        base, base_hidden = (
            torch.zeros_like(bias) if given is None else given.to(bias)
            for given, bias in ((base, visible), (base_hidden, hidden))
        )
        return cls(*doubled(weights, visible, hidden, base, base_hidden))

    @property
    def base_log_partition(self) -> float:
        """The constant of E_0, log Z_0 = Σ_i log(1 + exp b_i) + Σ_j log(1 + exp c_j)."""
        return float(F.softplus(self.base_bias).sum() + F.softplus(self.base_hidden_bias).sum())

    @torch.no_grad()
    def anneal(self, v: Tensor, betas: Tensor, rng: Rng) -> Tensor:
        """Return the logarithms of the weights [N] of N chains that begin in the states v [N, V] at betas[0].

        At each next β a weight gains exp(F_last(v) - F_β(v)), then v takes a step of Gibbs sampling at β;
        -F_β(v) = v·b_β + Σ_j log(1 + exp(c_β + β W v)_j).
        """
        weights, visible_bias, hidden_bias, base_bias, base_hidden_bias = self
        towards, hidden_towards = visible_bias - base_bias, hidden_bias - base_hidden_bias
        log_weights = torch.zeros(len(v)).to(weights)
        levels = betas.tolist()
        v = v.to(weights)
        seen = F.linear(v, weights, hidden_towards)
        for last, beta in pairwise(levels):
            # The hidden layer's inputs are base_hidden_bias + β seen: one product for two temperatures and the step.
            inputs = base_hidden_bias + beta * seen
            gains = F.softplus(inputs).sum(1) - F.softplus(base_hidden_bias + last * seen).sum(1)
            log_weights += (beta - last) * (v @ towards) + gains
            v = draw(base_bias + beta * (towards + draw(inputs, rng) @ weights), rng)
            seen = F.linear(v, weights, hidden_towards)
        return log_weights
