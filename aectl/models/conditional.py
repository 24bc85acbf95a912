"""Models that may be given the class of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from aectl.models.base import Batch, Model, Stage
from aectl.rng import Rng


class Conditional(Model):
    """Base class of models with an option `conditional`, which trains them on labelled images and their classes.

    Without that option, the methods do nothing.
    """

    shares: Tensor
    """Class frequencies of the training images, [classes]; only if the model is conditional."""

    def set_classes(self, conditional: bool, classes: int) -> int:
        """Set whether the model is conditional; return the number of columns that `append_class` adds to a code.

        Raises ValueError for a conditional model without classes.
        """
        if conditional and not classes:
            raise ValueError("conditional=true needs a dataset with classes")
        self.conditional = conditional
        if not conditional:
            return 0
        self.register_buffer("shares", torch.full((classes,), 1 / classes))
        return classes

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Store the class frequencies of the training images; raises ValueError if labels are missing."""
        if not self.conditional:
            return
        y = torch.cat([batch.y for batch in batches])
        counts = y[y >= 0].bincount(minlength=len(self.shares))
        if not counts.any():
            raise ValueError("model.conditional=true needs training images with labels, and there are none")
        self.shares.copy_(counts / counts.sum())

    def stages(self) -> Iterator[Stage]:
        yield Stage(labelled=self.conditional)

    def append_class(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return codes z [N, code] with the one-hot class y [N] appended, by default that of the most frequent class.

        If the model is not conditional, returns z.
        """
        if not self.conditional:
            return z
        y = self.shares.argmax().expand(z.shape[0]) if y is None else y
        return torch.cat([z, F.one_hot(y, len(self.shares)).to(z)], 1)

    def draw_classes(self, n: int, y: Tensor | None, rng: Rng) -> Tensor | None:
        """Return the classes [n] of images to sample: y, with missing ones (-1, or y=None) drawn by frequency.

        If the model is not conditional, returns None. Raises ValueError for a class without training images.
        """
        if self.conditional and y is not None and (self.shares[y[y >= 0]] == 0).any():
            raise ValueError("there were no training images of that class")
        return self.complete_labels(n, y, rng)

    def complete_labels(self, n: int, y: Tensor | None, rng: Rng) -> Tensor | None:
        """Return classes [n]: y, with missing ones (-1, or y=None) drawn by frequency; None if not conditional."""
        if not self.conditional:
            return None
        edges = self.shares.cumsum(0)
        drawn = torch.searchsorted(edges, rng.uniform(n) * edges[-1], right=True).clamp_max(len(edges) - 1)
        return drawn if y is None else torch.where(y < 0, drawn, y)
