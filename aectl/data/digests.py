"""Describe the data of a run by digests of the images and labels of each split, and compare such descriptions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from aectl.data.datasets import Dataset, Source

SPLITS = ("train", "valid", "test")
MEAN_IMAGES = 1000
"""Images over which the mean intensity is computed."""


def describe(dataset: Dataset, train: Source, valid: Source) -> dict[str, Any]:
    """Return the name of a dataset, the mean intensity of its training images, and sizes and digests of its splits.

    Sizes and digests are omitted for published and synthetic datasets, which their config already determines.
    """
    found = {"name": dataset.name, "mean": mean_intensity(train)}
    return found if getattr(dataset, "is_fixed", False) else found | describe_splits(dataset, train, valid)


def describe_splits(dataset: Dataset, train: Source | None = None, valid: Source | None = None) -> dict[str, Any]:
    """Return the sizes and digests of all splits; `train` and `valid` avoid loading them again."""
    known = {"train": train, "valid": valid}
    found: dict[str, Any] = {}
    for which in SPLITS:
        found |= describe_split(which, known.get(which) or dataset.split(which))
    return found


def describe_split(which: str, source: Source) -> dict[str, Any]:
    """Return the number of images of a split, and order-dependent digests of its images and labels."""
    hashes = source.image_hashes()
    kind = repr((source.shape, str(source.images.dtype), source.scale)).encode()
    return {
        f"{which}_images": len(source),
        f"{which}_digest": compute_digest(kind, hashes.numpy().tobytes()),
        f"{which}_labels": compute_digest(source.labels.cpu().numpy().tobytes()),
    }


def compute_digest(*parts: bytes) -> str:
    """Return the BLAKE2b hash of the parts as 16 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how two descriptions of data differ; an empty string if they do not.

    Only splits that occur in both are compared.
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
    """Return the mean pixel, in [0, 1], of up to 1,000 evenly spaced images; None for an empty source."""
    if not len(source):
        return None
    chosen = torch.linspace(0, len(source) - 1, min(MEAN_IMAGES, len(source)), device=source.labels.device)
    return float(source.batch(chosen.long()).x.mean())
