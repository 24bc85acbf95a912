"""The run's random numbers: every draw of a model, a corruption or the data order passes through here."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


class Rng:
    """A seeded source of random tensors on one device.

    One seam for all randomness is what makes a resumed run equal to an uninterrupted one: the state below is all
    there is to save. And it makes processes that share a batch equal to one process: the `part`-th of `parts` draws
    what all of them need, and returns its own. The batch is the tensor's first dimension, or the one called `batch`;
    what does not belong to images of the batch is drawn from `whole`.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", part: int = 0, parts: int = 1) -> None:
        self.seed = int(seed)
        self.device = torch.device(device)
        self.part, self.parts = part, parts
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def fork(self, *names: str | int) -> Rng:
        """Return a new source that depends on this one's seed and on `names` alone, not on what was drawn before."""
        digest = hashlib.sha256(repr((self.seed, *names)).encode()).digest()
        return Rng(int.from_bytes(digest[:7], "big"), self.device, self.part, self.parts)

    @property
    def whole(self) -> Rng:
        """The same source, for tensors that are no process's part of something: all draw the same."""
        if self.parts == 1:
            return self
        other = copy.copy(self)
        other.part, other.parts = 0, 1
        return other

    def normal(self, *shape: int, batch: int = 0) -> Tensor:
        """Draw standard normal numbers, N(0, 1)."""
        return self.draw(torch.randn, shape, batch)

    def uniform(self, *shape: int, batch: int = 0) -> Tensor:
        """Draw numbers uniform on [0, 1)."""
        return self.draw(torch.rand, shape, batch)

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
        """Return this process's part of what `function` draws for all of them."""
        if self.parts == 1:
            return function(shape, generator=self.generator, device=self.device)
        sizes = list(shape)
        sizes[batch] *= self.parts
        drawn = function(sizes, generator=self.generator, device=self.device)
        return drawn.narrow(batch, self.part * shape[batch], shape[batch])

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
