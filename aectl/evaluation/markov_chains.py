"""Mixing of a model's Markov chains: R-hat and effective sample size."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from aectl.evaluation.context import Row, Rows, Subject, Unmeasured
from aectl.evaluation.evaluation import Evaluation
from aectl.metric import Metric
from aectl.models.base import Energy, Walks
from aectl.rng import Rng

CHAINS, BURN_IN, DRAWS, THINNING = 20, 1000, 500, 10
"""Number of chains, steps before the first draw, draws of each chain, and steps between draws."""

METRICS = (
    Metric(
        "rhat_*", "split R-hat of this statistic of the states: 1 if the chains have forgotten their starts", "lower"
    ),
    Metric("ess_*", "independent draws that would estimate the mean of this statistic as precisely", "higher"),
    Metric("chains", "chains that were run", detail=True, condition=True),
    Metric("draws", "states of each chain", detail=True, condition=True),
    Metric("burn_in", "steps before the first draw", detail=True, condition=True),
    Metric("thinning", "steps from draw to draw", detail=True, condition=True),
)


def measure(subject: Subject) -> Rows:
    """Return R-hat and the effective sample size of two statistics of an image: mean intensity, and energy if known.

    The chains start from states that are spread more widely than the model's distribution, so that R-hat shows a
    dependence on the start. The baseline is as many independent draws. Raises Unmeasured if the chains do not move.
    """
    traces = walk(cast("Walks", subject.model), subject.bench.rng("chains"))
    found: Row = {"chains": CHAINS, "draws": DRAWS, "burn_in": BURN_IN, "thinning": THINNING}
    best: Row = dict(found)
    for name, trace in traces.items():
        values = {f"rhat_{name}": r_hat(trace), f"ess_{name}": effective_size(trace)}
        if all(map(math.isfinite, values.values())):
            found |= values
            best |= {f"rhat_{name}": 1.0, f"ess_{name}": float(CHAINS * DRAWS)}
    if not any(key.startswith("rhat") for key in found):
        raise Unmeasured("the chains do not move")
    return {"model": found, "independent draws": best}


@torch.no_grad()
def walk(model: Walks, rng: Rng) -> dict[str, Tensor]:
    """Return the statistics [CHAINS, DRAWS] of the states of chains from `start`, by name."""
    x = model.start(CHAINS, rng=rng)
    traces: dict[str, list[Tensor]] = {"intensity": []}
    if isinstance(model, Energy):
        traces["energy"] = []
    for step in range(1, BURN_IN + DRAWS * THINNING + 1):
        x = model.walk(x, rng)
        if step > BURN_IN and (step - BURN_IN) % THINNING == 0:
            traces["intensity"].append(x.flatten(1).mean(1))
            if isinstance(model, Energy):
                traces["energy"].append(model.energy(x))
    return {name: torch.stack(values, 1).double().cpu() for name, values in traces.items()}


def halves(traces: Tensor) -> Tensor:
    """Return both halves of each chain as chains, [2 chains, draws / 2]; drops the middle draw of an odd number."""
    draws = traces.shape[1] // 2
    return torch.cat([traces[:, :draws], traces[:, -draws:]])


def spread(chains: Tensor) -> tuple[Tensor, Tensor]:
    """Return W, the mean variance within chains [M, N], and (N - 1)/N W + the variance of their means."""
    within = chains.var(1).mean()
    return within, within * (1 - 1 / chains.shape[1]) + chains.mean(1).var()


def r_hat(traces: Tensor) -> float:
    """Return the split R-hat of traces [chains, draws]: the root of the whole variance over the one within chains.

    It is 1 for chains that have forgotten their starts. Each chain is split in two, so that a drift counts as well.
    Source: Gelman et al. 2013, "Bayesian data analysis", section 11.4.
    """
    within, whole = spread(halves(traces.double()))
    return float((whole / within).sqrt())


def effective_size(traces: Tensor) -> float:
    """Return how many independent draws would estimate the mean as precisely as traces [chains, draws].

    M N / τ with τ = 1 + 2 Σ_t ρ_t, for the M halves of chains with N draws each, and ρ_t = 1 - (W - mean autocovariance
    at t) / whole variance. The sum is over pairs ρ_2t + ρ_2t+1, which are positive and decreasing for reversible chains
    (Geyer 1992, initial monotone sequence): it ends at the first negative pair, and each pair counts at most as much as
    those before it. The result is at most M N log10(M N). Source: Vehtari et al. 2021, "Rank-normalization, folding,
    and localization".
    """
    chains = halves(traces.double())
    count, length = chains.shape
    within, whole = spread(chains)
    correlation = 1 - (within - autocovariance(chains).mean(0)) / whole
    correlation[0] = 1
    pairs = correlation[: 2 * (length // 2)].view(-1, 2).sum(1)
    negative = (pairs < 0).nonzero()
    kept = pairs[: int(negative[0])] if len(negative) else pairs
    time = -1 + 2 * float(kept.cummin(0).values.sum())
    total = count * length
    return total / max(time, 1 / math.log10(total))


def autocovariance(chains: Tensor) -> Tensor:
    """Return Σ_i (x_i - mean)(x_i+t - mean) / N of chains [M, N] for t = 0 … N - 1, [M, N]."""
    length = chains.shape[1]
    # Padded to twice the length, since the Fourier transform is periodic.
    transformed = torch.fft.rfft(chains - chains.mean(1, keepdim=True), 2 * length)
    return torch.fft.irfft(transformed.abs().square(), 2 * length)[:, :length] / length


EVALUATIONS = (Evaluation("chains", "Markov chains", (Walks,), measure, METRICS, order=110),)
