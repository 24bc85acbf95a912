"""Distances between the distributions of two sets of vectors: features of images, or their pixels.

Numbers can be compared only at equal N: the Fréchet distance is biased upwards by a term of order 1/N, so that it is
not 0 for two sets from the same distribution. Tables show its value for such sets, real training images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from aectl.evaluation.context import Row
from aectl.metric import Metric
from aectl.rng import Rng

Kernel = Callable[[Tensor, Tensor], Tensor]
"""A function of pairs: [n, D] and [m, D] to [n, m]."""
FRECHET = Metric("frechet", "Fréchet distance in the judge's features (not FID)", "lower")
GROUPS = 20
"""Parts of a set that the jackknife leaves out in turn."""


def groups(x: Tensor) -> list[Tensor]:
    """Return `x` [N, D] in `GROUPS` parts of equal size, after a fixed permutation."""
    order = Rng(0).permutation(len(x)).to(x.device)
    return list(x[order].tensor_split(GROUPS))


def estimate(values: Tensor, name: str) -> Row:
    """Return an estimate as `name` and half the width of its 95 % interval as `name_ci95`, by the grouped jackknife.

    `values` [1 + G] holds the estimate, then the estimates without each of G groups of the data. The square of the half
    width is 1.96² (G-1)/G Σ (θ_g - θ̄)² (Efron & Stein 1981). It is conservative if the distributions are equal.
    """
    parts = values[1:].double()
    variance = (len(parts) - 1) * parts.var(correction=0)
    return {name: float(values[0]), f"{name}_ci95": 1.96 * float(variance) ** 0.5}


def frechet(x: Tensor, y: Tensor) -> Row:
    """Return the Fréchet distance between normal distributions fitted to `x` [N, D] and `y` [M, D]."""
    pairs = zip(moments(x), moments(y), strict=True)
    return estimate(torch.stack([frechet_of_moments(*a, *b) for a, b in pairs]), FRECHET.name)


def frechet_of_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """Return ‖μ_x - μ_y‖² + Tr(C_x + C_y - 2 (C_x C_y)^½), for means [D] and covariances [D, D].

    Source: Dowson & Landau 1982; with Inception features it is the FID of Heusel et al. 2017.
    """
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp_min(0).sqrt()
    # C_x C_y has the eigenvalues of Rᵀ C_y R with C_x = R Rᵀ, which is symmetric.
    common = torch.linalg.eigvalsh(root.T @ cov_y @ root).clamp_min(0).sqrt().sum()
    return (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * common


def moments(x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return mean [D] and covariance [D, D] of `x` [N, D], then of `x` without each group, in double precision."""
    centre = x.double().mean(0)
    parts = [part.double() - centre for part in groups(x)]
    sums = torch.stack([part.sum(0) for part in parts])
    products = torch.stack([part.T @ part for part in parts])
    result = []
    for without in (None, *range(GROUPS)):
        kept = [g for g in range(GROUPS) if g != without]
        n, mean = sum(len(parts[g]) for g in kept), sums[kept].sum(0)
        covariance = (products[kept].sum(0) - torch.outer(mean, mean) / n) / (n - 1)
        result.append((centre + mean / n, covariance))
    return result


class PairMeans(NamedTuple):
    """Means of a kernel over pairs of all vectors, then of the vectors without each group; each [1 + G]."""

    within_x: Tensor
    within_y: Tensor
    between: Tensor

    def discrepancy(self) -> Tensor:
        """Return E k(x, x′) + E k(y, y′) - 2 E k(x, y) [1 + G], unbiased: its mean is 0 for equal distributions.

        This is the squared maximum mean discrepancy (Gretton et al. 2012); for k = -‖x - y‖ it is the energy distance
        (Székely & Rizzo 2013).
        """
        return self.within_x + self.within_y - 2 * self.between


def pair_means(x: Tensor, y: Tensor, kernel: Kernel, within_y: Tensor | None = None) -> PairMeans:
    """Return the means of `kernel` over pairs of different vectors of `x` [N, D], of `y` [M, D], and over x × y.

    `kernel` maps [n, D] and [m, D] to [n, m]. The means over pairs of y, [1 + G], are computed unless `within_y` is
    given.
    """
    a, b = groups(x), groups(y)
    return PairMeans(within(a, kernel), within(b, kernel) if within_y is None else within_y, between(a, b, kernel))


def within(parts: list[Tensor], kernel: Kernel) -> Tensor:
    """Return the mean of a symmetric `kernel` over pairs of different vectors, then without each group, [1 + G]."""
    sums = parts[0].new_zeros(GROUPS, GROUPS, dtype=torch.float64)
    for i, a in enumerate(parts):
        for j in range(i, GROUPS):
            block = kernel(a, parts[j])
            if i == j:
                block = block.clone().fill_diagonal_(0)
            sums[i, j] = sums[j, i] = block.sum(dtype=torch.float64)
    sizes = sums.new_tensor([len(part) for part in parts])
    return left_out(sums) / left_out(torch.outer(sizes, sizes) - sizes.diag())


def between(a: list[Tensor], b: list[Tensor], kernel: Kernel) -> Tensor:
    """Return the mean of `kernel` over pairs of a vector of each set, then without each group of both, [1 + G]."""
    sums = torch.stack([torch.stack([kernel(i, j).sum(dtype=torch.float64) for j in b]) for i in a])
    sizes_a, sizes_b = (sums.new_tensor([len(part) for part in parts]) for parts in (a, b))
    return left_out(sums) / left_out(torch.outer(sizes_a, sizes_b))


def left_out(table: Tensor) -> Tensor:
    """Return the sum of `table` [G, G], then the sums without row and column g, [1 + G]."""
    total = table.sum()
    return torch.cat([total[None], total - table.sum(0) - table.sum(1) + table.diagonal()])


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """Return the polynomial kernel (x·y / D + 1)³ [n, m] of the kernel distance (Bińkowski et al. 2018)."""
    return (x @ y.T / x.shape[1] + 1).pow(3)
