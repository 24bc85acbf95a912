"""Requests for images: how many, the random numbers and settings, and the images to start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.densities import CodeDensities
from aectl.rng import Rng

STEPS = 10
"""Images in a row of a path, including both ends."""

Arrays = dict[str, Tensor]
"""Arrays by name; images have pixels in [0, 1]."""


class Impossible(ValueError):
    """The model has the required abilities, but the data do not suffice; the message says why."""


@dataclass(frozen=True)
class Request:
    """A request for `n` images with the random numbers of `rng`.

    - `source`: images to start from; if it is empty, `why_none` says why.
    - `temperature`: factor of the standard deviation of sampled codes.
    - `label`: class to sample.
    - `path`: linear, spherical, or auto for the default of the model.
    - `density`: gaussian, mixture or flow; fitted to the codes of the `train` images by `densities`.
    - `components`: Gaussians of the mixture, None for a default.
    - `steps`, `burn_in`, `thinning`: a chain is shown over `steps` steps after its first `burn_in` steps, or, if
      `thinning` is set, every `thinning` steps.
    - `folder`: folder of the run, which has the images logged in training.
    """

    n: int
    rng: Rng
    temperature: float
    source: Source
    label: int | None = None
    path: str = "auto"
    density: str = "mixture"
    components: int | None = None
    steps: int = 100
    burn_in: int = 0
    thinning: int | None = None
    train: Source | None = None
    densities: CodeDensities = field(default_factory=CodeDensities)
    folder: Path | None = None
    why_none: str = "the run's dataset has no test images"

    @property
    def rows(self) -> int:
        """Number of full rows of STEPS images within n images, at least 1."""
        return max(self.n // STEPS, 1)

    def images(self, count: int) -> Tensor:
        """Return up to `count` random images of the source; raises Impossible if it is empty."""
        if not len(self.source):
            raise Impossible(self.why_none)
        chosen = self.rng.fork("images").permutation(len(self.source))[:count]
        return self.source.batch(chosen).x

    def labels(self) -> Tensor | None:
        """Return the requested class for each image, [n], or None."""
        return None if self.label is None else torch.full((self.n,), self.label, device=self.rng.device)


def has(model: object, *abilities: type) -> bool:
    """Return whether a model, or a model class, has all the given abilities."""
    return all(issubclass(model, one) if isinstance(model, type) else isinstance(model, one) for one in abilities)
