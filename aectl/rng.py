"""Random numbers of a run, used by models, noise and the order of the data."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


class Rng:
    """Seeded random number generator on one device.

    All randomness of a run comes from this class, so its state is all that a resumed run needs to continue exactly.

    If several processes share a batch, process `part` of `parts` draws the numbers of all processes and returns its own
    part, so the results equal those of a single process. The batch is dimension `batch` of the tensor, by default the
    first. Use `whole` to draw tensors that are not split over processes.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", part: int = 0, parts: int = 1) -> None:
        self.seed = int(seed)
        self.device = torch.device(device)
        self.part, self.parts = part, parts
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def fork(self, *names: str | int) -> Rng:
        """Return a new Rng that depends only on this one's seed and on `names`, not on previous draws."""
        digest = hashlib.sha256(repr((self.seed, *names)).encode()).digest()
        return Rng(int.from_bytes(digest[:7], "big"), self.device, self.part, self.parts)

    @property
    def whole(self) -> Rng:
        """The same generator for tensors that are not split over processes: all processes draw the same numbers."""
        if self.parts == 1:
            return self
        other = copy.copy(self)
        other.part, other.parts = 0, 1
        return other

    def normal(self, *shape: int, batch: int = 0) -> Tensor:
        """Draw numbers from N(0, 1)."""
        return self.draw(torch.randn, shape, batch)

    def uniform(self, *shape: int, batch: int = 0) -> Tensor:
        """Draw uniform numbers in [0, 1)."""
        return self.draw(torch.rand, shape, batch)

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
        """Call `function` for the numbers of all processes and return this process's part."""
        if self.parts == 1:
            return function(shape, generator=self.generator, device=self.device)
        sizes = list(shape)
        sizes[batch] *= self.parts
        drawn = function(sizes, generator=self.generator, device=self.device)
        return drawn.narrow(batch, self.part * shape[batch], shape[batch])

    def bernoulli(self, probability: Tensor) -> Tensor:
        """Draw 1 with the given probabilities, else 0; the result has the shape of `probability`."""
        return (self.uniform(*probability.shape) < probability).to(probability.dtype)

    def permutation(self, n: int) -> Tensor:
        """Draw a random permutation of 0 … n-1."""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def state(self) -> Tensor:
        """Return the state of the generator as a tensor of bytes, for checkpoints."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Restore a state returned by `state()`."""
        self.generator.set_state(state.cpu())
