"""Random corruptions x̃ ~ Ñ(x) of images (lecture, "Como adicionar ruído?"; Vincent et al. 2010)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from aectl.rng import Rng

MAX_SHIFT = 1000
"""Largest shift in pixels, which is also the width of the black padding."""


class Noise(nn.Module):
    """Base class of corruptions: maps images and an rng to corrupted images of the same shape."""

    def forward(self, x: Tensor, rng: Rng) -> Tensor:
        """Return a corrupted copy of x [N, …]."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(x, rng)")

    def strength(self, name: str, value: float) -> None:
        """Register `value` as the buffer `name`, not saved in checkpoints."""
        self.register_buffer(name, torch.tensor(float(value)), persistent=False)


class Gaussian(Noise):
    """Add Gaussian noise: x̃ = x + σ ε, ε ~ N(0, 1), optionally clipped to [0, 1].

    Raises ValueError unless std ≥ 0. Source: lecture, "Como adicionar ruído?", which uses σ ≥ 1.
    """

    std: Tensor

    def __init__(self, std: float = 1.0, clip: bool = False) -> None:
        super().__init__()
        if not 0 <= std < float("inf"):
            raise ValueError(f"std must be a finite number ≥ 0, not {std}")
        self.strength("std", std)
        self.clip = clip

    def forward(self, x: Tensor, rng: Rng) -> Tensor:
        noisy = x + self.std * rng.normal(*x.shape)
        return noisy.clamp(0, 1) if self.clip else noisy


class Masking(Noise):
    """Set each pixel to 0 with probability p: x̃ = x ⊙ m, m ~ Bernoulli(1 - p).

    Raises ValueError unless 0 ≤ p ≤ 1. Source: lecture, "Ruído impulsivo"; Vincent et al. 2010, section 3.3.
    """

    p: Tensor

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.strength("p", check_probability(p))

    def forward(self, x: Tensor, rng: Rng) -> Tensor:
        return x * (rng.uniform(*x.shape) >= self.p)


class SaltAndPepper(Noise):
    """Replace each pixel with probability p by 0 or 1, with equal probability.

    Raises ValueError unless 0 ≤ p ≤ 1. Source: Vincent et al. 2010, section 3.3.
    """

    p: Tensor

    def __init__(self, p: float = 0.25) -> None:
        super().__init__()
        self.strength("p", check_probability(p))

    def forward(self, x: Tensor, rng: Rng) -> Tensor:
        # u < p/2 is pepper, p/2 ≤ u < p is salt.
        u = rng.uniform(*x.shape)
        salted = torch.where(u < self.p, torch.ones_like(x), x)
        return torch.where(u < self.p / 2, torch.zeros_like(x), salted)


class Jitter(Noise):
    """Shift each image by up to `shift` pixels in each direction, and mirror it left to right with probability p.

    New pixels are black. This is data augmentation for classifiers: it does not change the class. Raises ValueError for
    a negative shift and unless 0 ≤ p ≤ 1.
    """

    p: Tensor

    def __init__(self, shift: int = 2, p: float = 0.0) -> None:
        super().__init__()
        if shift < 0:
            raise ValueError(f"shift must be at least 0, not {shift}")
        if shift > MAX_SHIFT:
            raise ValueError(f"shift must be at most {MAX_SHIFT:,}, not {shift}")
        self.shift = shift
        self.strength("p", check_probability(p))

    def forward(self, x: Tensor, rng: Rng) -> Tensor:
        n, _, height, width = x.shape
        x = torch.where((rng.uniform(n) < self.p)[:, None, None, None], x.flip(-1), x)
        offsets = (rng.uniform(2, n, batch=1) * (2 * self.shift + 1)).long()
        rows = offsets[0, :, None] + torch.arange(height, device=x.device)
        columns = offsets[1, :, None] + torch.arange(width, device=x.device)
        padded = functional.pad(x, (self.shift,) * 4)
        each = torch.arange(n, device=x.device)[:, None, None]
        # Advanced indices separated by a slice put the channels last.
        return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def check_probability(p: float) -> float:
    """Return p; raises ValueError unless 0 ≤ p ≤ 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], not {p}")
    return p
