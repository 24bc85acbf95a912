"""What is asked of a model: how many pictures, of which kind of randomness, and the images to start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.rng import Rng

STEPS = 10
"""Images in a row, from one end of a way to the other."""

Arrays = dict[str, Tensor]
"""What is made, by name; images have pixels in [0, 1]."""


class Impossible(ValueError):
    """The model could make the pictures, but not of what it was given; the message says why."""


@dataclass(frozen=True)
class Request:
    """How many images to make from which seed, and how.

    `source` are the images to start from, perhaps none, and then `why_none` says why. `temperature` scales the standard
    deviation of whatever draws codes, `label` is the class to draw, `path` the way between two codes: linear,
    spherical, or auto for what suits the model. A `density` (gaussian or gmm, of so many `components`) is fitted to the
    codes of the `train` images. A chain takes `steps` steps behind its first `burn_in`, or is shown every `thinning`
    steps. `folder` is the run's, which has the pictures of its training.
    """

    n: int
    rng: Rng
    temperature: float
    source: Source
    label: int | None = None
    path: str = "auto"
    density: str = "gmm"
    components: int = 10
    steps: int = 100
    burn_in: int = 0
    thinning: int | None = None
    train: Source | None = None
    folder: Path | None = None
    why_none: str = "the run's dataset has no test images"

    @property
    def rows(self) -> int:
        """How many rows of STEPS images come nearest to n images from below, at least one."""
        return max(self.n // STEPS, 1)

    def images(self, count: int) -> Tensor:
        """Return `count` images of the source, chosen by the seed; fewer if it holds fewer, Impossible if none."""
        if not len(self.source):
            raise Impossible(self.why_none)
        chosen = self.rng.fork("images").permutation(len(self.source))[:count]
        return self.source.batch(chosen).x

    def labels(self) -> Tensor | None:
        """Return the asked class once for each of the n images, [n]; None if no class was asked for."""
        return None if self.label is None else torch.full((self.n,), self.label, device=self.rng.device)


def has(model: object, *abilities: type) -> bool:
    """Return whether a model, or a class of models, has all the given abilities."""
    return all(issubclass(model, one) if isinstance(model, type) else isinstance(model, one) for one in abilities)
