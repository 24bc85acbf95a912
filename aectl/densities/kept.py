"""Fit densities to the codes of a run's training images, and keep them in the run's folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from aectl.config.untrusted_files import SparseFileError, check_sparse
from aectl.densities.density import Density
from aectl.densities.registry import DENSITIES
from aectl.rng import Rng
from aectl.system.atomic_write import describe_error, write_atomically

log = logging.getLogger("aectl")

VERSION = 1
"""Increase it when a density is fitted differently, so that kept ones are not used."""
MAX_CODES = 60_000
"""Largest number of training images to whose codes a density is fitted."""
MAX_COMPONENTS, IMAGES_PER_COMPONENT = 50, 200
"""Default number of Gaussians of a mixture: one for so many images, up to a limit."""

Encode = Callable[[Tensor], Tensor]
"""Returns the codes [N, code] of the training images at positions [N]."""


@dataclass(frozen=True)
class CodeDensities:
    """Densities of the codes of a run's training images; each is fitted once and kept in `folder`.

    `source` identifies the model's weights and the training images. A density that was kept for another source, seed or
    number of components is not used. Without a folder nothing is kept.
    """

    folder: Path | None = None
    source: str = ""
    seed: int = 0

    def fit_or_load(self, name: str, components: int | None, images: int, encode: Encode) -> Density:
        """Return the density `name` of the codes of at most MAX_CODES of so many training images.

        Raises ValueError if there are fewer images than components, or if codes are NaN or infinite.
        """
        components = count_components(name, components, images)
        content = [name, VERSION, self.source, self.seed, components, images]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        path = self.folder / f"{name}-{digest}.safetensors" if self.folder else None
        if path and (kept := load_density(name, path)):
            return kept
        start, rng = perf_counter(), Rng(self.seed).fork("density", name)
        codes = encode(rng.fork("images").permutation(images)[:MAX_CODES].sort().values)
        if not torch.isfinite(codes).all():
            raise ValueError("codes of training images are NaN or infinite")
        density = Density.fit(DENSITIES[name], codes, rng, components)
        what = DENSITIES[name].describe(components)
        log.info("fitted %s to the codes of %s images in %.0f s", what, f"{len(codes):,}", perf_counter() - start)
        if path:
            keep_density(density, path)
        return density


def count_components(name: str, components: int | None, images: int) -> int:
    """Return the number of Gaussians of a density; raises ValueError if there are fewer training images."""
    if not DENSITIES[name].has_components:
        return 1
    if components is None:
        return max(1, min(MAX_COMPONENTS, images // IMAGES_PER_COMPONENT))
    if components > images:
        raise ValueError(
            f"components={components:,} needs at least {components:,} training images, but there are {images:,}"
        )
    return components


def load_density(name: str, path: Path) -> Density | None:
    """Return a kept density, or None if the file is missing or damaged."""
    with contextlib.suppress(OSError, SparseFileError, SafetensorError, KeyError, RuntimeError):
        check_sparse(path)
        density = Density.restore(DENSITIES[name], load(path.read_bytes()))
        density.sample(1, Rng(0))
        return density
    return None


def keep_density(density: Density, path: Path) -> None:
    """Write a density to a file; warns if the folder cannot be written."""
    try:
        path.parent.mkdir(exist_ok=True)
        with write_atomically(path, sync=False) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in density.state_dict().items()}))
    except OSError as error:
        log.warning("the density is not kept: %s", describe_error(error))
