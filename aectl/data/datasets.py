"""Data sets as tensors on the device: MNIST, Fashion-MNIST, scikit-learn's digits, and arrays of one's own.

A set this small lives on the device whole, in its own dtype; a batch is an `index_select`, so there is no loader to
wait for. One's own may be larger than memory and stays in its file, see `mapped.py`. Which images are held out never
depends on the run's seed: all runs are measured on the same ones.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from aectl.data import array_files, downloads
from aectl.data.content_split import hash_array_file, hash_images, hold_out, places
from aectl.data.downloads import DataError
from aectl.data.memmap import Mapped
from aectl.models.base import Batch
from aectl.rng import Rng

TRAINING = 60_000  # images in the training file of MNIST and of Fashion-MNIST
SPLITS = ("train", "valid", "test", "excluded")
SplitRule = Literal["content", "position"]
SPLIT_RULES = get_args(SplitRule)
"""What decides which of one's own images are held out."""


@dataclass(frozen=True)
class Source:
    """Examples on one device; `images * scale` lies in [0, 1], `labels` are -1 where there are none."""

    images: Tensor | Mapped  # [N, C, H, W], uint8 or float32
    labels: Tensor  # [N], int64
    index: Tensor  # positions in the file they come from [N], int64
    scale: float
    classes: int
    hashes: Callable[[], Tensor] | None = None  # gives [N, 2], int64, on the CPU: see content_split.py

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Batch:
        """Return the examples at `indices` [n], int64 on the same device; `Batch.index` has their file positions."""
        # In place: what is selected is a copy already.
        x = self.images.index_select(0, indices).float().mul_(self.scale)
        return Batch(x, self.labels.index_select(0, indices), self.index.index_select(0, indices))

    def positions(self, n: int | None = None) -> Tensor:
        """Return the positions of the first `n` examples, or of all."""
        return torch.arange(len(self) if n is None else min(n, len(self)), device=self.labels.device)

    def first(self, n: int) -> Batch:
        """Return the first `n` examples, or all if there are fewer."""
        return self.batch(self.positions(n))

    def pixels(self) -> Tensor:
        """Return all images as floats [N, C, H, W] in [0, 1]."""
        return self.images.float() * self.scale

    def take(self, indices: Tensor) -> Source:
        """Return a source of the examples at `indices` alone."""
        labels, index = (t.index_select(0, indices) for t in (self.labels, self.index))
        whole = self.images
        images = whole.take(indices) if isinstance(whole, Mapped) else whole.index_select(0, indices)
        hashes = None if self.hashes is None else partial(rows_of, self.hashes, indices.cpu())
        return replace(self, images=images, labels=labels, index=index, hashes=hashes)

    def image_hashes(self) -> Tensor:
        """Return the hash of the content of each image, [N, 2], int64, computed when it is first asked for."""
        return hash_images(self.images) if self.hashes is None else self.hashes()

    def labelled(self) -> Source:
        """Return a source of the examples that have a label, which is this one if all have."""
        if bool((self.labels >= 0).all()):
            return self
        return self.take((self.labels >= 0).nonzero().squeeze(1))

    def to(self, device: torch.device | str) -> Source:
        """Return this source on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), index=self.index.to(device))


def rows_of(compute: Callable[[], Tensor], indices: Tensor) -> Tensor:
    """Return the rows at `indices` of a tensor that is computed when it is asked for."""
    return compute()[indices]


@dataclass(frozen=True)
class Dataset:
    """A data set and its splits; `read("train")` and `read("test")` give the whole parts, each when first needed.

    `valid` images of the training part are held out for validation, by a permutation that is always the same. Classes
    in `exclude` are left out of "train" and "valid", not of "test". With `labels` only so many images of "train",
    equally many of each class, keep their label.

    If `by_content`, what is held out and what keeps its label depends on each image's `hashes`, and `valid` may be a
    share; see content_split.py. If `is_fixed`, the arguments alone decide what the images are, as with published sets.
    If `has_valid`, `read("valid")` gives the images for validation, and none of the training part are held out.

    Raises ValueError if `exclude` names an unknown class or every class, or for `labels` that are no count.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    read: Callable[[str], Source]
    valid: float = 0
    exclude: Sequence[int] = ()
    labels: int | None = None
    by_content: bool = False
    is_fixed: bool = False
    has_valid: bool = False

    def __post_init__(self) -> None:
        if self.labels is not None and (type(self.labels) is not int or self.labels < 0):
            raise ValueError(f"labels must be a count of images or null, not {self.labels!r}")
        if isinstance(self.exclude, str) or not isinstance(self.exclude, Sequence):
            raise ValueError(f"exclude must be a list of classes such as [3], not {self.exclude!r}")
        if unknown := [c for c in self.exclude if type(c) is not int or not 0 <= c < self.classes]:
            raise ValueError(f"exclude must name some of {self.classes} classes, counted from 0, not {unknown[0]!r}")
        if self.classes and len(set(self.exclude)) == self.classes:
            raise ValueError(f"exclude must leave a class to train on, not name all {self.classes}")

    def split(self, which: str, device: torch.device | str = "cpu") -> Source:
        """Return "train", "valid", "test", or "excluded": the training part's images of the excluded classes."""
        if which not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {which!r}")
        if which == "test":
            return replace(self.read("test"), classes=self.classes).to(device)
        given = which == "valid" and self.has_valid
        part = self.read("valid" if given else "train")
        held = torch.ones(len(part), dtype=torch.bool) if given else self.is_validation(part)
        excluded = torch.isin(part.labels, torch.tensor(tuple(self.exclude), dtype=torch.int64))
        chosen = {"train": ~held & ~excluded, "valid": held & ~excluded, "excluded": excluded}[which]
        if which == "train" and not chosen.any():
            raise ValueError(f"exclude must leave images to train on, not {list(self.exclude)}")
        found = part.take(chosen.nonzero().squeeze(1))
        return (self.with_few_labels(found) if which == "train" else found).to(device)

    def is_validation(self, part: Source) -> Tensor:
        """Return whether each image of the training part is held out for validation, [N], bool."""
        if self.by_content:
            # Test images are at the other end, so that neither border depends on the other one.
            return hold_out(1 - places(part.image_hashes()), self.valid)
        return Rng(0).fork("valid").permutation(len(part)) < self.valid

    def with_few_labels(self, source: Source) -> Source:
        """Return the source with as many labels as there are to be, by a draw that is always the same."""
        if self.labels is None:
            return source
        known = (source.labels >= 0).nonzero().squeeze(1)
        if self.labels > len(known):
            raise ValueError(f"labels must be at most the {len(known):,} labelled training images, not {self.labels:,}")
        # The second half of a hash, since the first half has decided what is trained on.
        order = (
            source.image_hashes()[known, 1].argsort(stable=True)
            if self.by_content
            else Rng(0).fork("labels").permutation(len(known))
        )
        kept = known[first_of_each_class(source.labels[known], self.labels, order)]
        labels = torch.full_like(source.labels, -1)
        labels[kept] = source.labels[kept]
        return replace(source, labels=labels)


Maker = TypeVar("Maker", bound=Callable[..., Dataset])


def dataset(function: Maker) -> Maker:
    """Mark a function that returns a data set, so that the config of a stored run may name it.

    Keys called `path`, `root`, `test_path` and `test_root` are paths, which a stranger's config may not choose. The
    function must read nothing else, write nothing and open no connection.
    """
    vars(function)["makes_dataset"] = True
    return function


def published_dataset(function: Maker) -> Maker:
    """Mark a function like `dataset`; its `root` holds published files that are read only if their digests match."""
    vars(function)["reads_published_files"] = True
    return dataset(function)


def empty(shape: tuple[int, int, int], classes: int) -> Source:
    """Return a source of no images."""
    nothing = torch.empty(0, dtype=torch.int64)
    return Source(torch.empty(0, *shape, dtype=torch.uint8), nothing, nothing, 1 / 255, classes)


@published_dataset
def mnist(
    root: str | None = None, valid: float = 5000, exclude: Sequence[int] = (), labels: int | None = None
) -> Dataset:
    """Return MNIST (LeCun et al. 1998): 60,000 training and 10,000 test images of handwritten digits, 28×28 grey.

    `valid` counts the held-out training images, or is their share if < 1; with `labels` only so many of the others
    keep their label. Missing files are fetched into `root`, see `sources.py`. Raises ValueError for an argument out of
    range and, at the first split, DataError without files.
    """
    return from_collection("mnist", root, valid, exclude, labels)


@published_dataset
def fashion_mnist(
    root: str | None = None, valid: float = 5000, exclude: Sequence[int] = (), labels: int | None = None
) -> Dataset:
    """Return Fashion-MNIST (Xiao et al. 2017): articles of clothing, in MNIST's sizes; arguments as for `mnist`."""
    return from_collection("fashion_mnist", root, valid, exclude, labels)


@dataset
def digits(valid: float = 150, test: float = 360, exclude: Sequence[int] = (), labels: int | None = None) -> Dataset:
    """Return the 1,797 handwritten digits that come with scikit-learn: 8×8, grey levels 0 … 16 (UCI, Alpaydin 1998).

    `valid` and `test` are counts, or shares of the whole if < 1. Raises ValueError for an argument out of range.
    """
    total = 1797
    tested = held_out("test", test, total, total)

    @cache
    def read(part: str) -> Source:
        from sklearn.datasets import load_digits

        pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
        whole = Source(pixels.byte().reshape(-1, 1, 8, 8), labels.long(), torch.arange(total), 1 / 16, 10)
        return portion(whole, part, tested)

    kept = held_out("valid", valid, total, total - tested)
    return Dataset("digits", (1, 8, 8), 10, read, kept, exclude, labels, is_fixed=True)


@dataset
def arrays(
    path: str,
    test_path: str | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    exclude: Sequence[int] = (),
    labels: int | None = None,
    split_by: SplitRule = "position",
    scale: float | None = None,
    keys: Mapping[str, str] | None = None,
) -> Dataset:
    """Return one's own images from a .npy or .npz file: [N, H, W], [N, C, H, W], or [N, H, W, C] with C 1 or 3.

    Pixels are uint8 or floats in [0, 1]; with `scale`, the value of a white pixel, any numbers from 0 to that. Those of
    a .npy of uint8 or float32 stay in the file, which may be larger than memory.

    A .npz may have labels, integers from 0 (-1: none). Its arrays are found by their names: x and y, images and labels,
    data and target, arr_0 and arr_1, each also with a split such as in x_train, val_labels or test_images; else the one
    array that could be images is taken. Splits in the file are used as they are. `keys` says which array is what where
    names do not: {images: a, labels: b, test_images: c}.

    `valid` and `test` are counts, or shares of the file if < 1, of images held out where the file has no such split;
    with a `test_path`, that file is the test set. `split_by` is "content" (of each image's pixels: adding images moves
    no old one, equal images are all in one split, shares are approximate, see content_split.py) or "position" (in the
    file: adding one draws all splits anew), which is the rule of runs whose config has no such key.

    Raises ValueError for an argument out of range, and DataError for a file that is missing, damaged, ambiguous, or has
    no such images.
    """
    check_split_rule(split_by)
    parts = load(path, keys, scale)
    whole = parts.get("all") or parts["train"]
    has_test = "test" in parts or test_path is not None
    tested = 0 if has_test else held_out("test", test, len(whole), len(whole))
    if test_path and not Path(test_path).expanduser().is_file():
        raise DataError(f"test_path must be a file, not {test_path}")

    @cache
    def read(part: str) -> Source:
        if part == "test" and test_path:
            other = load_for_testing(test_path, keys, scale)
            if other.shape != whole.shape or 0 < whole.classes < other.classes:
                found, known = (f"{s.shape} of {s.classes} classes" for s in (other, whole))
                raise DataError(f"images in {test_path} are {found}, where those in {path} are {known}")
            return other
        if part != "train" and part in parts:
            return parts[part]
        return divide(whole, part, tested, 0 if has_test else test, split_by)

    has_valid, by_content = "valid" in parts, split_by == "content"
    kept = 0 if has_valid else held_out("valid", valid, len(whole), len(whole) - tested)
    amount = valid if by_content and not has_valid else kept
    name, rules = Path(path).stem, {"by_content": by_content, "has_valid": has_valid}
    return Dataset(name, whole.shape, whole.classes, read, amount, exclude, labels, **rules)


def check_split_rule(split_by: str) -> None:
    """Raise ValueError unless there is a rule for splits of this name."""
    if split_by not in SPLIT_RULES:
        raise ValueError(f"split_by must be {' or '.join(SPLIT_RULES)}, not '{split_by}'")


def from_collection(name: str, root: str | None, valid: float, exclude: Sequence[int], labels: int | None) -> Dataset:
    """Return the data set whose IDX files `sources.py` knows by this name."""

    @cache
    def read(part: str) -> Source:
        prefix = "train" if part == "train" else "t10k"
        files = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        content, folder = downloads.read(name, files, root), downloads.raw_folder(name, root)
        images, labels = (idx(content[file], folder / file, rank) for file, rank in zip(files, (3, 1), strict=True))
        return Source(images[:, None], labels.long(), torch.arange(len(images)), 1 / 255, 10)

    kept = held_out("valid", valid, TRAINING, TRAINING)
    return Dataset(name, (1, 28, 28), 10, read, kept, exclude, labels, is_fixed=True)


def idx(content: bytes, path: Path, rank: int) -> Tensor:
    """Return the bytes of an IDX file with `rank` dimensions; raises DataError, naming `path`, if it is none.

    The format: 0, 0, the type (8: unsigned bytes), the rank; each size as a big-endian 32-bit number; the values.
    """
    start = 4 + 4 * rank
    if len(content) < start or content[:4] != bytes((0, 0, 8, rank)):
        raise DataError(f"{path} is not an IDX file of bytes with {rank} dimensions: it starts with {content[:4]!r}")
    sizes = struct.unpack(f">{rank}I", content[4:start])
    if math.prod(sizes) != len(content) - start:
        raise DataError(f"{path} has {len(content) - start:,} values where its header promises {math.prod(sizes):,}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy())


def load(path: str, keys: Mapping[str, str] | None = None, scale: float | None = None) -> dict[str, Source]:
    """Return the images of a .npy or .npz file, with their hashes, by split; "all" without splits; see `arrays`."""
    file = Path(path).expanduser()
    parts = array_files.read(file, keys, scale)
    classes = max(int(part.labels.max()) for part in parts.values()) + 1
    return {
        name: Source(
            pixels, labels, torch.arange(len(pixels)), factor, classes, cache(partial(hash_array_file, file, pixels))
        )
        for name, (pixels, labels, factor) in parts.items()
    }


def load_for_testing(path: str, keys: Mapping[str, str] | None = None, scale: float | None = None) -> Source:
    """Return the test images of a .npy or .npz file, or all of a file without splits."""
    parts = load(path, keys, scale)
    if found := parts.get("test") or parts.get("all"):
        return found
    raise DataError(f"{path} has training images and no test images: name them by dataset.keys=")


def balanced(labels: Tensor, n: int, rng: Rng) -> Tensor:
    """Draw the positions [n] of images with labels [N], equally many of each class as far as possible."""
    return first_of_each_class(labels, n, rng.permutation(len(labels)))


def first_of_each_class(labels: Tensor, n: int, order: Tensor) -> Tensor:
    """Return the positions [n] of images with labels [N]: in an `order` [N] the first of each class, the second, ….

    Where n is no multiple of the number of classes some have one more, and where a class has too few the others have
    more.
    """
    _, classes, counts = labels[order].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[classes[by_class]]
    return order[rank.argsort(stable=True)[:n]]


def divide(whole: Source, part: str, tested: int, test: float, split_by: str) -> Source:
    """Return the test examples of a whole file as part "test", or the others as "train".

    By position these are `tested` of them, by content the count or share `test` with the lowest places.
    """
    if split_by == "position":
        return portion(whole, part, tested)
    held = hold_out(places(whole.image_hashes()), test)
    return whole.take((held if part == "test" else ~held).nonzero().squeeze(1))


def portion(whole: Source, part: str, tested: int) -> Source:
    """Return the `tested` examples that a fixed permutation puts first as part "test", or the others as "train"."""
    order = Rng(0).fork("test").permutation(len(whole))
    return whole.take((order[:tested] if part == "test" else order[tested:]).sort().values)


def held_out(name: str, amount: float, total: int, limit: int) -> int:
    """Return how many of `total` a count, or a share < 1, means; raises ValueError unless it is below `limit`."""
    if type(amount) in (int, float) and (0 <= amount < 1 or (amount >= 1 and float(amount).is_integer())):
        count = round(amount * total) if amount < 1 else int(amount)
        if count < limit:
            return count
    raise ValueError(f"{name} must be a count from 0 to {limit - 1:,}, or a share below 1, not {amount!r}")
