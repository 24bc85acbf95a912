"""How well images come back: mean squared error, PSNR and SSIM, of a model beside PCA of the same code size."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.data.torchvision_shim import torchvision
from aectl.models.base import Decodes
from aectl.rng import Rng

Row = dict[str, float]
"""Numbers by name: one row of a table."""

CHUNK = 1000
"""Images at a time, for the memory's sake."""


def psnr(mse: float) -> float:
    """Return the peak signal-to-noise ratio 10 log10(1 / MSE) in dB, for pixels in [0, 1]."""
    return 10 * math.log10(1 / mse) if mse > 0 else math.inf


def fidelity(clean: Tensor, restored: Tensor) -> Row:
    """Return how near `restored` is to `clean`, both [N, C, H, W].

    `mse` is per pixel; `psnr` is that of the mean MSE and `psnr_image` the mean of each image's own, in dB; `ssim` is
    the mean structural similarity (Wang et al. 2004).
    """
    errors = (clean - restored).square().flatten(1).mean(1).double()
    # A perfect image would make the mean infinite: 1e-10 is 100 dB.
    image = (10 * torch.log10(1 / errors.clamp_min(1e-10))).mean()
    mse = float(errors.mean())
    return {"mse": mse, "psnr": psnr(mse), "psnr_image": float(image), "ssim": ssim(clean, restored)}


def ssim(clean: Tensor, restored: Tensor) -> float:
    """Return the mean structural similarity; a narrower window (σ = 0.5 pixels, not 1.5) below 16 pixels a side."""
    torchvision()  # torchmetrics imports it, and fails where its wheel and torch's do not match
    from torchmetrics.functional.image import structural_similarity_index_measure as measure

    sigma = 1.5 if min(clean.shape[2:]) >= 16 else 0.5
    pairs = zip(clean.split(CHUNK), restored.split(CHUNK), strict=True)
    total = sum(float(measure(b, a, sigma=sigma, data_range=1.0)) * len(a) for a, b in pairs)
    return total / len(clean)


@torch.no_grad()
def apply(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return `function` of all images, a chunk at a time."""
    return torch.cat([function(chunk) for chunk in images.split(CHUNK)])


class PCA:
    """Principal components of a source's images, the best linear code (Baldi & Hornik 1989)."""

    def __init__(self, source: Source) -> None:
        moment = torch.zeros(0)
        total = torch.zeros(0)
        indices = torch.arange(len(source), device=source.images.device)
        for part in indices.split(5000):
            x = source.batch(part).x.flatten(1).double()
            moment = x.T @ x + (moment if len(moment) else 0)
            total = x.sum(0) + (total if len(total) else 0)
        self.mean = total / len(source)
        covariance = moment / len(source) - torch.outer(self.mean, self.mean)
        variances, vectors = torch.linalg.eigh(covariance)
        self.components = vectors.flip(1)
        self.variances = variances.flip(0).clamp_min(0)

    def reconstruct(self, x: Tensor, code: int) -> Tensor:
        """Return images [N, C, H, W] projected on the first `code` components."""
        basis = self.components[:, :code]
        centred = x.flatten(1).double() - self.mean
        return (centred @ basis @ basis.T + self.mean).to(x.dtype).view_as(x)

    def largest_angle_deg(self, basis: Tensor) -> float:
        """Return the largest principal angle, in degrees, to the span of the columns of `basis` [pixels, code]."""
        from scipy.linalg import subspace_angles

        angles = subspace_angles(basis.double().cpu().numpy(), self.components[:, : basis.shape[1]].cpu().numpy())
        return math.degrees(float(angles.max()))


@torch.no_grad()
def affine_basis(model: Decodes, code: int, device: torch.device) -> Tensor | None:
    """Return the decoder's matrix [pixels, code] if it is affine, g(z) = W z + b, else None; found by trying it."""
    a, b = Rng(0, device).normal(2, 8, code)
    zero = model.decode(torch.zeros(1, code, device=device))
    gap = model.decode(a + b) - model.decode(a) - model.decode(b) + zero
    if float(gap.abs().max()) > 1e-4:
        return None
    return (model.decode(torch.eye(code, device=device)) - zero).flatten(1).T
