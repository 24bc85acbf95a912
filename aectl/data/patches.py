"""Small binary patches of the images of another dataset, with so few pixels that all images can be enumerated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from aectl.data.datasets import Dataset, Source, digits, fashion_mnist, mnist, published_dataset
from aectl.rng import Rng

SETS: dict[str, Callable[..., Dataset]] = {"digits": digits, "mnist": mnist, "fashion_mnist": fashion_mnist}
"""Datasets from which patches can be cut, by name."""


@dataclass(frozen=True)
class Patches(Dataset):
    """Patches of `shape` (1, side, side) of the images that `read` returns; the patches of an image share its split.

    `per_image` patches are cut from each image at uniformly random positions, which depend only on `seed`. Pixels are 1
    if they are at least `threshold`, else 0. Patches without any 1 are dropped unless `blank`. Patches have the labels
    and indices of their images. Raises ValueError if the training images yield no patch.
    """

    per_image: int = 8
    threshold: float = 0.5
    blank: bool = False
    seed: int = 0

    def split(self, which: str, device: torch.device | str = "cpu") -> Source:
        found = self.cut(super().split(which), Rng(self.seed).fork("patches", which))
        if which == "train" and not len(found):
            raise ValueError(f"threshold: no pixel of any training patch reaches {self.threshold}")
        return found.to(device)

    def cut(self, source: Source, rng: Rng) -> Source:
        """Return the patches of a source of grey images [N, 1, H, W], in the order of the images."""
        ink, side = source.pixels().squeeze(1) >= self.threshold, self.shape[-1]
        windows = ink.unfold(1, side, 1).unfold(2, side, 1)
        image = torch.arange(len(source)).repeat_interleave(self.per_image)
        row, column = ((rng.uniform(len(image)) * size).long() for size in windows.shape[1:3])
        patches = windows[image, row, column][:, None].byte()
        whole = Source(patches, source.labels[image], source.index[image], 1.0, source.classes)
        return whole if self.blank else whole.take(patches.flatten(1).any(1).nonzero().squeeze(1))


@published_dataset
def patches(
    of: Literal["digits", "mnist", "fashion_mnist"] = "digits",
    side: int = 4,
    per_image: int = 8,
    threshold: float = 0.5,
    blank: bool = False,
    root: str | None = None,
    valid: float | None = None,
    seed: int = 0,
    exclude: Sequence[int] = (),
) -> Dataset:
    """Return binary patches of `side` × `side` pixels of `digits`, `mnist` or `fashion_mnist`; see `Patches`.

    `valid` is the number of images (not patches) held out for validation, or their share if < 1; None uses the default
    of that dataset. `root` is the folder of the files of `mnist` and `fashion_mnist`. Raises ValueError for an unknown
    dataset or an argument out of range. The first split raises DataError if the files are unavailable.
    """
    if of not in SETS:
        raise ValueError(f"of must be one of {', '.join(SETS)}, not '{of}'")
    # The bundled digits have no folder.
    files = {} if of == "digits" else {"root": root}
    held = {} if valid is None else {"valid": valid}
    images = SETS[of](exclude=exclude, **files, **held)
    largest = min(images.shape[1:])
    if not 2 <= side <= largest:
        raise ValueError(f"side must lie between 2 and the {largest} pixels of an image, not {side}")
    if per_image < 1:
        raise ValueError(f"per_image must be at least 1, not {per_image}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
    cut: dict[str, Any] = {
        "per_image": per_image,
        "threshold": threshold,
        "blank": blank,
        "seed": seed,
        "is_fixed": True,
    }
    shape = (1, side, side)
    return Patches("patches", shape, images.classes, images.read, images.valid, exclude, **cut)
