"""Penalties R(h) on codes, which keep overcomplete codes from copying (lecture, "Overcomplete regularized AEs")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aectl.parallel import average


class Penalty(nn.Module):
    """Base class of penalties: maps codes [N, code] to a scalar that is added to the loss."""

    weight: Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be a finite number ≥ 0, not {weight}")
        self.register_buffer("weight", torch.tensor(float(weight)), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Return R(h), averaged over the batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(h)")


class L1(Penalty):
    """L1 penalty, for few active units per image: R(h) = λ Σᵢ |hᵢ|, averaged over the batch (lecture).

    Raises ValueError unless weight (λ) ≥ 0.
    """

    def __init__(self, weight: float = 0.18) -> None:
        super().__init__(weight)

    def forward(self, h: Tensor) -> Tensor:
        return self.weight * h.abs().flatten(1).sum(1).mean()


class KL(Penalty):
    """KL penalty, for units that are active on a share ρ of the images: R(h) = λ Σⱼ KL(ρ ‖ ρ̂ⱼ).

    ρ̂ⱼ is the batch mean of unit j. Use it with codes in (0, 1): `model.encoder.code_activation=sigmoid`.

    Raises ValueError unless 0 < rho < 1 and weight (λ) ≥ 0. Source: Ng, "Sparse autoencoder", CS294A lecture notes,
    2011.
    """

    def __init__(self, weight: float = 1.0, rho: float = 0.05) -> None:
        super().__init__(weight)
        if not 0 < rho < 1:
            raise ValueError(f"rho must lie strictly between 0 and 1, not {rho}")
        self.rho = float(rho)

    def forward(self, h: Tensor) -> Tensor:
        # The divergence is infinite at a mean of 0 or 1.
        mean = average(h.flatten(1).mean(0)).clamp(1e-6, 1 - 1e-6)
        rho = self.rho
        divergence = rho * torch.log(rho / mean) + (1 - rho) * torch.log((1 - rho) / (1 - mean))
        return self.weight * divergence.sum()
