"""Precision and recall, density and coverage of samples: their quality and their variety as separate numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aectl.evaluation.context import CHUNK, Row
from aectl.evaluation.distances import GROUPS, estimate, groups, left_out
from aectl.metric import Metric

METRICS = (
    Metric("precision", "share of samples within the manifold of held-out images", "higher", "%"),
    Metric("recall", "share of held-out images within the manifold of samples", "higher", "%"),
    Metric(
        "density",
        "manifold balls of held-out images around a sample, 1 for samples like the data",
        "higher",
        detail=True,
    ),
    Metric("coverage", "share of held-out images with a sample in their ball", "higher", "%", detail=True),
)
"""What `precision_recall` returns."""
NEIGHBOURS = 3
"""k: the manifold of a set is the union of balls around its vectors, each up to the k-th nearest neighbour."""


class Balls(NamedTuple):
    """Vectors [n, D] and the squared radii [n] of the balls around them."""

    centres: Tensor
    radii: Tensor


class Meeting(NamedTuple):
    """Which of n samples and m real vectors are in each other's balls."""

    on_real: Tensor  # samples in a real vector's ball [n]
    on_samples: Tensor  # real vectors in a sample's ball [m]
    covered: Tensor  # real vectors with a sample in their ball [m]
    pairs: Tensor  # how many pairs of a sample and a real vector have the sample in the other's ball


def precision_recall(x: Tensor, y: Tensor) -> Row:
    """Return precision, recall, density and coverage of samples `x` [N, D] and real vectors `y` [M, D].

    `precision` is the percentage of samples on the manifold of real vectors, `recall` the percentage of real vectors on
    the manifold of samples (Kynkäänniemi et al. 2019). `density` is the mean number of real balls around a sample,
    divided by k, and `coverage` the percentage of real balls with a sample inside (Naeem et al. 2020). For sets of the
    same distribution and size they are 1 and 100 (1 - 2⁻ᵏ). Intervals hold for fixed radii.
    """
    centre = y.double().mean(0)
    samples, real = balls(x.double() - centre), balls(y.double() - centre)
    met = [[meet(a, b) for b in real] for a in samples]
    turned = list(zip(*met, strict=True))
    pairs = torch.stack([torch.stack([one.pairs for one in row]) for row in met]).double()
    sizes = [pairs.new_tensor([len(part.radii) for part in parts]) for parts in (samples, real)]
    density = left_out(pairs) / left_out(torch.outer(*sizes)) * len(y) / NEIGHBOURS
    return {
        **estimate(hit_percentage([[one.on_real for one in row] for row in met]), "precision"),
        **estimate(hit_percentage([[one.on_samples for one in row] for row in turned]), "recall"),
        **estimate(density, "density"),
        **estimate(hit_percentage([[one.covered for one in row] for row in turned]), "coverage"),
    }


def realism(x: Tensor, y: Tensor) -> Tensor:
    """Return the realism [N] of samples `x` [N, D], given real vectors `y` [M, D] (Kynkäänniemi et al. 2019).

    It is the largest ratio of a ball's radius to the sample's distance from its centre: at least 1 on the manifold. Of
    the balls, only the smaller half counts, since large ones belong to rare images.
    """
    centre = y.double().mean(0)
    real = balls(y.double() - centre)
    centres, squares = torch.cat([part.centres for part in real]), torch.cat([part.radii for part in real])
    small = squares <= squares.median()
    parts = (
        (squares[small] / squared_distances(part, centres[small])).amax(1)
        for part in (x.double() - centre).split(CHUNK)
    )
    return torch.cat([*parts]).sqrt()


def balls(x: Tensor) -> list[Balls]:
    """Return `x` [N, D] in groups, with the squared distance of each vector to its k-th nearest other one."""
    parts = groups(x)
    whole = torch.cat(parts)
    # The nearest vector is the vector itself.
    nearest = [squared_distances(part, whole).topk(NEIGHBOURS + 1, largest=False).values for part in parts]
    return [Balls(part, found[:, -1]) for part, found in zip(parts, nearest, strict=True)]


def meet(samples: Balls, real: Balls) -> Meeting:
    """Return which vectors of two groups are in each other's balls."""
    squares = squared_distances(real.centres, samples.centres)
    inside, around = squares <= real.radii[:, None], squares <= samples.radii
    return Meeting(inside.any(0), around.any(1), inside.any(1), inside.sum())


def hit_percentage(hits: list[list[Tensor]]) -> Tensor:
    """Return the percentage of vectors that any group of the other set hits, then without group g of both, [1 + G].

    `hits[g][h]` states for each vector of group g whether group h of the other set hits it.
    """

    def without(g: int | None) -> Tensor:
        kept = [i for i in range(GROUPS) if i != g]
        return torch.cat([torch.stack([hits[i][j] for j in kept]).any(0) for i in kept]).double().mean()

    return 100 * torch.stack([without(g) for g in (None, *range(GROUPS))])


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ‖a - b‖² [n, m] of vectors [n, D] and [m, D]."""
    return torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1, keepdim=True)).clamp_min_(0)
