"""How well a corruption is undone: the model beside doing nothing and beside the best affine denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aectl.data.datasets import Source
from aectl.rng import Rng

PASSES = 3
"""Corruptions of each training image from which the affine denoiser is fitted."""


class AffineDenoiser:
    """The affine map of the corrupted image with the least squared error, cut to [0, 1]; the Wiener filter.

    A = Cov(x, x̃) Cov(x̃)⁻¹, fitted on a source under a corruption. It is what a denoiser must beat.
    """

    def __init__(self, source: Source, noise: nn.Module, rng: Rng) -> None:
        indices = torch.arange(len(source), device=source.images.device)
        moments = [torch.zeros((), dtype=torch.float64, device=indices.device)] * 4
        for part in indices.repeat(PASSES).split(5000):
            x = source.batch(part).x
            noisy = noise(x, rng).flatten(1).double()
            x = x.flatten(1).double()
            terms = (x.sum(0), noisy.sum(0), noisy.T @ x, noisy.T @ noisy)
            moments = [a + b for a, b in zip(moments, terms, strict=True)]
        total = PASSES * len(source)
        self.mean, self.noisy_mean = moments[0] / total, moments[1] / total
        cross = moments[2] / total - torch.outer(self.noisy_mean, self.mean)
        covariance = moments[3] / total - torch.outer(self.noisy_mean, self.noisy_mean)
        # Pixels that never vary make the covariance singular.
        ridge = 1e-6 * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        self.matrix = torch.linalg.solve(covariance + ridge, cross)

    def __call__(self, noisy: Tensor) -> Tensor:
        """Return the restored images [N, C, H, W]."""
        restored = (noisy.flatten(1).double() - self.noisy_mean) @ self.matrix + self.mean
        return restored.clamp(0, 1).to(noisy.dtype).view_as(noisy)
