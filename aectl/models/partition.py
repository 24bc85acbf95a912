"""Normalising constants of two-layer binary energies, by enumeration and by annealed importance sampling.

The energy is E(v, h) = -b·v - c·h - hᵀ W v for v in {0, 1}^V and h in {0, 1}^H, with `weights` W [H, V], `visible_bias`
b [V] and `hidden_bias` c [H]. Any bipartite graph fits: for three stacked layers, the middle layer is one side and the
two outer layers together are the other. Either side may be the visible one. All computations are in float64.
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
"""Largest number of units whose 2^20 states are enumerated; takes seconds."""
TEMPERATURES = 10_000
CHAINS = 100


def is_enumerable(weights: Tensor) -> bool:
    """Return whether one side of the energy is small enough for `enumerate_log_z`."""
    return min(weights.shape) <= ENUMERABLE


def enumerate_log_z(weights: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Partition:
    """Return the exact log Z = log Σ_v Σ_h exp(-E(v, h)) by enumerating the states of the smaller side.

    The other side is summed in closed form: Σ_h exp(-E(v, h)) = exp(b·v) Π_j (1 + exp(c_j + W_j v)). Raises ValueError
    if both sides have more than ENUMERABLE units.
    """
    if not is_enumerable(weights):
        raise ValueError(f"one side must have at most {ENUMERABLE} units, not {min(weights.shape)}")
    weights, bias, other_bias = to_float64(weights, visible_bias, hidden_bias)
    if len(other_bias) < len(bias):
        weights, bias, other_bias = weights.T, other_bias, bias
    half = len(bias) // 2
    # The input of the other side is a sum over two halves of the state, so no matrix product is needed for each state.
    low, high = enumerate_states(half, weights), enumerate_states(len(bias) - half, weights)
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
    """Return log Z by annealed importance sampling (AIS) from independent units to the model.

    The path is E_β = (1 - β) E_0 + β E. `betas` are the inverse temperatures, increasing from 0 to 1, or a number of
    evenly spaced ones. E_0 has no weights, only biases `base_bias` [V] and `base_hidden_bias` [H], by default 0. AIS is
    more accurate the closer E_0 is to the data: for pixels use `mean_to_bias` of their mean.

    h is summed out: log w = Σ_k F_{k-1}(v_k) - F_k(v_k), with F_k the free energy at temperature k. The mean weight is
    an unbiased estimate of Z / Z_0, so log Z is underestimated on average and log p(x) overestimated. Sources: Neal
    2001; Salakhutdinov & Murray 2008.
    """
    path = AnnealingPath.create(weights, visible_bias, hidden_bias, base_bias, base_hidden_bias)
    v = sample_bernoulli(path.base_bias.expand(chains, -1), rng)
    log_weights = path.anneal(v, as_betas(betas), rng)
    return Partition(path.base_log_partition + log_mean(log_weights), compute_ci95(log_weights), "AIS")


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
    """Return log Z by reverse AIS: annealing from samples `start` [chains, V] of the model to independent units.

    The path is that of `ais`, backwards. If `start` are exact samples of the model, the mean weight is an unbiased
    estimate of Z_0 / Z, so log Z is overestimated on average and log p(x) underestimated. Samples of long Gibbs chains
    are only approximate; if they are far from the model's distribution, log Z may be too low. Source: Burda, Grosse &
    Salakhutdinov 2015, "Accurate and conservative estimates of MRF log-likelihood using reverse annealing".
    """
    path = AnnealingPath.create(weights, visible_bias, hidden_bias, base_bias, base_hidden_bias)
    log_weights = path.anneal(start, as_betas(betas).flip(0), rng)
    return Partition(path.base_log_partition - log_mean(log_weights), compute_ci95(log_weights), "reverse AIS")


def mean_to_bias(mean: Tensor, least: float = 0.001) -> Tensor:
    """Return the biases log(p / (1 - p)) of independent units with means p, clipped to [least, 1 - least]."""
    return mean.clamp(least, 1 - least).logit()


def as_betas(betas: Tensor | int) -> Tensor:
    """Return inverse temperatures as float64; a number gives that many evenly spaced ones from 0 to 1."""
    return torch.linspace(0, 1, betas, dtype=torch.float64) if isinstance(betas, int) else betas.double()


def enumerate_states(units: int, like: Tensor) -> Tensor:
    """Return all states [2^units, units] of a layer, with the dtype and device of `like`."""
    numbers = torch.arange(2**units, device=like.device)[:, None]
    return (numbers >> torch.arange(units, device=like.device) & 1).to(like)


def log_mean(log_weights: Tensor) -> float:
    """Return the logarithm of the mean weight, given log weights [N]."""
    return float(log_weights.logsumexp(0)) - math.log(len(log_weights))


def compute_ci95(log_weights: Tensor) -> float:
    """Return the half-width of the 95 % confidence interval of `log_mean`, in nats.

    To first order this is 1.96 times the standard error of the mean weight, divided by the mean weight. It is too
    narrow if a few weights dominate the mean; with one dominating weight it approaches 1.96.
    """
    weights = (log_weights - log_weights.max()).exp()
    return float(1.96 * weights.std() / weights.mean() / len(weights) ** 0.5) if len(weights) > 1 else math.inf


def to_float64(*parts: Tensor) -> Iterator[Tensor]:
    """Yield the tensors in float64, on the CPU if their device does not support it."""
    for part in parts:
        yield part.detach().to("cpu" if part.device.type == "mps" else part.device, torch.float64)


def sample_bernoulli(logits: Tensor, rng: Rng) -> Tensor:
    """Sample binary states with the given logits, of the same dtype."""
    return (rng.uniform(*logits.shape).to(logits.device) < logits.sigmoid()).to(logits)


class AnnealingPath(NamedTuple):
    """Path E_β = (1 - β) E_0 + β E from an energy E_0 of independent units to an energy E, in float64."""

    weights: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor
    base_bias: Tensor
    base_hidden_bias: Tensor

    @classmethod
    def create(
        cls, weights: Tensor, visible: Tensor, hidden: Tensor, base: Tensor | None, base_hidden: Tensor | None
    ) -> AnnealingPath:
        """Return the path to the given energy from the base biases, by default 0."""
        base, base_hidden = (
            torch.zeros_like(bias) if given is None else given.to(bias)
            for given, bias in ((base, visible), (base_hidden, hidden))
        )
        return cls(*to_float64(weights, visible, hidden, base, base_hidden))

    @property
    def base_log_partition(self) -> float:
        """Log Z_0 of E_0, Σ_i log(1 + exp b_i) + Σ_j log(1 + exp c_j)."""
        return float(F.softplus(self.base_bias).sum() + F.softplus(self.base_hidden_bias).sum())

    @torch.no_grad()
    def anneal(self, v: Tensor, betas: Tensor, rng: Rng) -> Tensor:
        """Run N chains from states v [N, V] at betas[0] and return their log weights [N].

        At each further β the log weight increases by F_last(v) - F_β(v), then v takes one Gibbs step at β, where
        -F_β(v) = v·b_β + Σ_j log(1 + exp(c_β + β W v)_j).
        """
        weights, visible_bias, hidden_bias, base_bias, base_hidden_bias = self
        towards, hidden_towards = visible_bias - base_bias, hidden_bias - base_hidden_bias
        log_weights = torch.zeros(len(v)).to(weights)
        levels = betas.tolist()
        v = v.to(weights)
        seen = F.linear(v, weights, hidden_towards)
        for last, beta in pairwise(levels):
            # The hidden logits are base_hidden_bias + β · seen: one product serves both temperatures and the step.
            inputs = base_hidden_bias + beta * seen
            gains = F.softplus(inputs).sum(1) - F.softplus(base_hidden_bias + last * seen).sum(1)
            log_weights += (beta - last) * (v @ towards) + gains
            v = sample_bernoulli(base_bias + beta * (towards + sample_bernoulli(inputs, rng) @ weights), rng)
            seen = F.linear(v, weights, hidden_towards)
        return log_weights
