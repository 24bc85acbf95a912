"""Memorisation: the share of samples that copy training images, compared with held-out images.

C_T (Meehan et al. 2020) and authenticity (Alaa et al. 2022) compare the distances of samples and of held-out images to
the training images. They take blurred samples for copies, and miss copies among poor samples: of normal vectors in 5
dimensions, C_T is -22 for fresh ones at half the scale, and 8 for 20 % of copies among others at 1.5 times the scale
(negative means copying). Here, training and held-out images compete for being the one that a sample resembles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aectl.evaluation.context import Row
from aectl.evaluation.nearest_neighbours import Neighbours, nearest
from aectl.metric import Metric
from aectl.rng import Rng

MEMORISED = Metric("memorised", "samples that copy a training image, less those that resemble one by chance", unit="%")
RATIO = 2 / 3
"""A sample resembles a vector whose distance is at most this part of the distance to the next one.

Yoon et al. 2023 call a sample of a diffusion model memorised below 1/3; there, nothing is subtracted for chance."""
NEIGHBOURS = 4
"""Neighbours among which the next one is looked for: those at the same distance as the nearest are its duplicates."""


def memorisation(samples: Tensor, train: Tensor, held_out: Tensor, distance: Tensor | None = None) -> Row:
    """Return the percentage of samples [N, …] that copy training vectors [T, …], given held-out vectors [M, …].

    K samples resemble a training vector, L a held-out one (see `RATIO`). Unless samples copy, training and held-out
    vectors are exchangeable, and E[K] = E[L] T / M, whether samples are good, poor or blurred. So `memorised` is
    (K - L T / M) / N. The interval is that of the permutation test: if n_i samples resemble vector i, and the held-out
    vectors are M random ones of all T + M, then Var L = T M / ((T + M) (T + M - 1)) Σ (n_i - n̄)². It is at least 3 / N,
    the limit if K = L = 0. `distance` [N] is that to the nearest training vector, if known.
    """
    t, m, n = len(train), len(held_out), len(samples)
    x, train, held_out = samples.flatten(1), train.flatten(1), held_out.flatten(1)
    pair = torch.stack([nearest(x, train)[0] if distance is None else distance, nearest(x, held_out)[0]])
    # All others have two vectors that are about equally near.
    low, high = pair.amin(0), pair.amax(0)
    x = x[(low <= RATIO * high) | (low == high)]
    # A random order, because the first of several equally near vectors is found.
    place = Rng(0).permutation(t + m).to(x.device)
    vectors = x.new_empty(t + m, x.shape[1])
    vectors[place[:t]], vectors[place[t:]] = train, held_out
    counts = find_resembled(x, vectors).bincount(minlength=t + m)[place].double()
    share = float(counts[:t].sum() - counts[t:].sum() * t / m) / n
    deviation = math.sqrt(float(counts.var()) * t * m / (t + m)) * (t + m) / (m * n)
    return {"memorised": 100 * share, "memorised_ci95": 100 * max(1.96 * deviation, 3 / n)}


def find_resembled(x: Tensor, vectors: Tensor) -> Tensor:
    """Return the position of the vector that each of `x` [n, D] resembles, without those that resemble none."""
    if not len(x):
        return torch.empty(0, dtype=torch.int64, device=x.device)
    distance, position = Neighbours(vectors).search(x, min(NEIGHBOURS, len(vectors)))
    first, others = distance[:, 0], distance[:, 1:]
    following = others.masked_fill(others <= first[:, None], torch.inf).amin(1)
    return position[following.isfinite() & (first <= RATIO * following), 0]
