"""What data a run was trained on: digests of the images and labels of each split, and how others differ from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from aectl.data.datasets import Dataset, Source

SPLITS = ("train", "valid", "test")
SEEN = 1000
"""Images that the mean intensity is taken over."""


def describe(dataset: Dataset, train: Source, valid: Source) -> dict[str, Any]:
    """Return the name of a data set, the mean intensity of its training images, and what tells its splits from others.

    The latter is left out of published and synthetic sets: their config says it already.
    """
    found = {"name": dataset.name, "mean": mean_intensity(train)}
    return found if getattr(dataset, "is_fixed", False) else found | describe_splits(dataset, train, valid)


def describe_splits(dataset: Dataset, train: Source | None = None, valid: Source | None = None) -> dict[str, Any]:
    """Return the numbers of images, and digests of images and labels, of all splits; some may be at hand already."""
    known = {"train": train, "valid": valid}
    found: dict[str, Any] = {}
    for which in SPLITS:
        found |= describe_split(which, known.get(which) or dataset.split(which))
    return found


def describe_split(which: str, source: Source) -> dict[str, Any]:
    """Return the number of images of a split and digests of its images and labels, both in their order."""
    hashes = source.image_hashes()
    kind = repr((source.shape, str(source.images.dtype), source.scale)).encode()
    return {
        f"{which}_images": len(source),
        f"{which}_digest": digest(kind, hashes.numpy().tobytes()),
        f"{which}_labels": digest(source.labels.cpu().numpy().tobytes()),
    }


def digest(*parts: bytes) -> str:
    """Return 16 hexadecimal digits of the BLAKE2b hash of some bytes."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in a few words how two descriptions of data differ; the empty text if they do not.

    Only what both describe is compared.
    """
    both = [which for which in SPLITS if f"{which}_digest" in then and f"{which}_digest" in now]
    before, after = (sum(found.get(f"{which}_images") or 0 for which in both) for found in (then, now))
    images = [which for which in both if then[f"{which}_digest"] != now[f"{which}_digest"]]
    labels = [which for which in both if which not in images and then.get(key := f"{which}_labels") != now[key]]
    counts = [f"{before:,} images then, {after:,} now"] if before != after else []
    others = [
        f"other {what} in {', '.join(found)}" for what, found in (("images", images), ("labels", labels)) if found
    ]
    return "; ".join([*counts, *others])


def mean_intensity(source: Source) -> float | None:
    """Return the mean pixel, in [0, 1], of 1,000 images evenly spaced over a source; None if it is empty."""
    if not len(source):
        return None
    chosen = torch.linspace(0, len(source) - 1, min(SEEN, len(source)), device=source.labels.device)
    return float(source.batch(chosen.long()).x.mean())
