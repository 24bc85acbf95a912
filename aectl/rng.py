"""The run's random numbers: every draw of a model, a corruption or the data order passes through here."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Rng:
    """A seeded source of random tensors on one device.

    One seam for all randomness is what makes a resumed run equal to an uninterrupted one: the state below is all
    there is to save. Tensors have the batch as their first dimension.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = int(seed)
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def fork(self, *names: str | int) -> Rng:
        """Return a new source that depends on this one's seed and on `names` alone, not on what was drawn before."""
        digest = hashlib.sha256(repr((self.seed, *names)).encode()).digest()
        return Rng(int.from_bytes(digest[:7], "big"), self.device)

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, N(0, 1)."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers uniform on [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def bernoulli(self, probability: Tensor) -> Tensor:
        """Draw 1 with the given probabilities, else 0; same shape as `probability`."""
        return (self.uniform(*probability.shape) < probability).to(probability.dtype)

    def permutation(self, n: int) -> Tensor:
        """Draw a permutation of 0 … n-1."""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def state(self) -> Tensor:
        """Return the state as a tensor of bytes, for a checkpoint."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Go back to a state that `state()` returned."""
        self.generator.set_state(state.cpu())
