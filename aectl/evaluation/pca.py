"""Principal components: the best linear code, the baseline of models that encode."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.baseline_cache import Cache
from aectl.models.base import Decodes
from aectl.rng import Rng


class PCA:
    """Principal components of a source's images, the best linear code (Baldi & Hornik 1989).

    It is computed in double precision, since small errors in the components would hide how close a linear model is.
    """

    def __init__(self, source: Source, cache: Cache | None = None) -> None:
        found = (cache or Cache()).arrays("pca", lambda: fit_pca(source))
        device = source.images.device
        self.mean, self.components = found["mean"].to(device), found["components"].to(device)
        self.variances = found["variances"].to(device)

    @cached_property
    def rank(self) -> int:
        """The number of components with a variance above rounding errors.

        With fewer images than pixels it is at most the number of images - 1. The rounding error is ε² of pixels in
        float32, or ε · pixels · E‖x‖² of the covariance in float64, whichever is larger.
        """
        power = float(self.variances.sum() + self.mean.square().sum())
        error = max(torch.finfo(torch.float64).eps * len(self.mean) * power, torch.finfo(torch.float32).eps ** 2)
        return int((self.variances > error).sum())

    def encode(self, x: Tensor, code: int) -> Tensor:
        """Return the first `code` coordinates [N, code] of images [N, C, H, W]."""
        return ((x.flatten(1).double() - self.mean) @ self.components[:, :code]).float()

    def reconstruct(self, x: Tensor, code: int) -> Tensor:
        """Return images [N, C, H, W] projected on the first `code` components."""
        basis = self.components[:, :code]
        centred = x.flatten(1).double() - self.mean
        return (centred @ basis @ basis.T + self.mean).to(x.dtype).view_as(x)

    def sample(self, n: int, code: int, rng: Rng, shape: tuple[int, int, int]) -> Tensor:
        """Return n samples [n, C, H, W] of a normal distribution of the first `code` coordinates, clamped to [0, 1]."""
        z = rng.normal(n, code).double() * self.variances[:code].sqrt()
        return (z @ self.components[:, :code].T + self.mean).float().clamp(0, 1).view(n, *shape)

    def largest_angle_deg(self, basis: Tensor) -> float:
        """Return the largest principal angle, in degrees, to the span of the columns of `basis` [pixels, code]."""
        from scipy.linalg import subspace_angles

        angles = subspace_angles(basis.double().cpu().numpy(), self.components[:, : basis.shape[1]].cpu().numpy())
        return math.degrees(float(angles.max()))


def fit_pca(source: Source) -> dict[str, Tensor]:
    """Return the mean, the components as columns of a matrix, and their variances, largest first."""
    moment, total = torch.zeros(()), torch.zeros(())
    for part in source.positions().split(5000):
        x = source.batch(part).x.flatten(1).double()
        moment, total = moment + x.T @ x, total + x.sum(0)
    mean = total / len(source)
    variances, vectors = torch.linalg.eigh(moment / len(source) - torch.outer(mean, mean))
    return {"mean": mean, "components": vectors.flip(1), "variances": variances.flip(0).clamp_min(0)}


@torch.no_grad()
def affine_basis(model: Decodes, code: int, device: torch.device) -> Tensor | None:
    """Return W [pixels, code] of a decoder that is affine, g(z) = W z + b, otherwise None; tested at random codes."""
    a, b = Rng(0, device).normal(2, 8, code)
    zero = model.decode(torch.zeros(1, code, device=device))
    gap = model.decode(a + b) - model.decode(a) - model.decode(b) + zero
    # `not … <=` is true also for NaN.
    if not float(gap.abs().max()) <= 1e-4:
        return None
    return (model.decode(torch.eye(code, device=device)) - zero).flatten(1).T
