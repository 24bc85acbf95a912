"""Datasets as tensors: MNIST, Fashion-MNIST, scikit-learn's digits, and the user's own arrays.

Datasets are stored on the device in their original dtype, and a batch is an `index_select`; there is no data loader.
The user's own arrays may be larger than memory and are then memory-mapped, see `memmap.py`. Held-out images do not
depend on the run's seed, so all runs are evaluated on the same images.
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
from aectl.data.content_split import hash_array_file, hash_images, hash_positions, hold_out
from aectl.data.downloads import DataError
from aectl.data.memmap import MappedImages
from aectl.models.base import Batch
from aectl.rng import Rng

TRAINING_IMAGES = 60_000  # images in the training file of MNIST and of Fashion-MNIST
SPLITS = ("train", "valid", "test", "excluded")
SplitRule = Literal["content", "position"]
SPLIT_RULES = get_args(SplitRule)
"""Rules by which images of the user's own files are held out."""


@dataclass(frozen=True)
class Source:
    """Examples on one device. `images * scale` is in [0, 1]; missing labels are -1."""

    images: Tensor | MappedImages  # [N, C, H, W], uint8 or float32
    labels: Tensor  # [N], int64
    index: Tensor  # positions in the original file [N], int64
    scale: float
    classes: int
    hashes: Callable[[], Tensor] | None = None  # returns [N, 2], int64, on the CPU; see content_split.py

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> Batch:
        """Return the examples at `indices` [n], int64 on the same device; `Batch.index` has their file positions."""
        # The selected images are already a copy, so they can be scaled in place.
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
        """Return a source of only the examples at `indices`."""
        labels, index = (t.index_select(0, indices) for t in (self.labels, self.index))
        whole = self.images
        images = whole.take(indices) if isinstance(whole, MappedImages) else whole.index_select(0, indices)
        hashes = None if self.hashes is None else partial(select_rows, self.hashes, indices.cpu())
        return replace(self, images=images, labels=labels, index=index, hashes=hashes)

    def image_hashes(self) -> Tensor:
        """Return the hash of the content of each image, [N, 2], int64, computed on first use."""
        return hash_images(self.images) if self.hashes is None else self.hashes()

    def labelled(self) -> Source:
        """Return a source of only the labelled examples; this source itself if all are labelled."""
        if bool((self.labels >= 0).all()):
            return self
        return self.take((self.labels >= 0).nonzero().squeeze(1))

    def to(self, device: torch.device | str) -> Source:
        """Return this source on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), index=self.index.to(device))


def select_rows(compute: Callable[[], Tensor], indices: Tensor) -> Tensor:
    """Compute a tensor and return its rows at `indices`."""
    return compute()[indices]


@dataclass(frozen=True)
class Dataset:
    """A dataset and its splits; `read("train")` and `read("test")` load the whole parts on first use.

    `valid` images of the training part are held out for validation, chosen by a fixed permutation. Classes in `exclude`
    are removed from "train" and "valid", not from "test". With `labels`, only that many images of "train", equally
    many of each class, keep their labels.

    If `by_content`, held-out images and kept labels are chosen by image hashes, and `valid` may be a share; see
    content_split.py. If `is_fixed`, the images are determined by the arguments, as for published datasets. If
    `has_valid`, `read("valid")` loads the validation images, and the training part holds out none.

    Raises ValueError if `exclude` lists an unknown class or all classes, or if `labels` is not a count.
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
            raise ValueError(f"exclude must list classes from 0 to {self.classes - 1}, not {unknown[0]!r}")
        if self.classes and len(set(self.exclude)) == self.classes:
            raise ValueError(f"exclude must leave a class to train on, not list all {self.classes}")

    def split(self, which: str, device: torch.device | str = "cpu") -> Source:
        """Return the split "train", "valid", "test" or "excluded" (training images of the excluded classes)."""
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
            # Test images are chosen from the other end, so that the two choices do not affect each other.
            return hold_out(1 - hash_positions(part.image_hashes()), self.valid)
        return Rng(0).fork("valid").permutation(len(part)) < self.valid

    def with_few_labels(self, source: Source) -> Source:
        """Return the source with only `labels` labels kept, chosen by a fixed random order."""
        if self.labels is None:
            return source
        known = (source.labels >= 0).nonzero().squeeze(1)
        if self.labels > len(known):
            raise ValueError(f"labels must be at most the {len(known):,} labelled training images, not {self.labels:,}")
        # Use the second half of the hash: the first half has already chosen the training images.
        order = (
            source.image_hashes()[known, 1].argsort(stable=True)
            if self.by_content
            else Rng(0).fork("labels").permutation(len(known))
        )
        kept = known[pick_balanced(source.labels[known], self.labels, order)]
        labels = torch.full_like(source.labels, -1)
        labels[kept] = source.labels[kept]
        return replace(source, labels=labels)


Maker = TypeVar("Maker", bound=Callable[..., Dataset])


def dataset(function: Maker) -> Maker:
    """Register a function that returns a dataset, so that configs of stored runs may use it as a target.

    The arguments `path`, `root`, `test_path` and `test_root` are paths, which an untrusted config may not set. The
    function must not read any other file, write files or open connections.
    """
    vars(function)["makes_dataset"] = True
    return function


def published_dataset(function: Maker) -> Maker:
    """Register a function like `dataset` whose `root` holds published files, verified by their digests."""
    vars(function)["reads_published_files"] = True
    return dataset(function)


def make_empty_source(shape: tuple[int, int, int], classes: int) -> Source:
    """Return a source without images."""
    nothing = torch.empty(0, dtype=torch.int64)
    return Source(torch.empty(0, *shape, dtype=torch.uint8), nothing, nothing, 1 / 255, classes)


@published_dataset
def mnist(
    root: str | None = None, valid: float = 5000, exclude: Sequence[int] = (), labels: int | None = None
) -> Dataset:
    """Return MNIST (LeCun et al. 1998): 60,000 training and 10,000 test images of handwritten digits, 28×28 grey.

    `valid` is the number of held-out training images, or their share if < 1. With `labels`, only that many of the other
    training images keep their labels. Missing files are downloaded into `root`, see `downloads.py`. Raises ValueError
    for an argument out of range. The first split raises DataError if the files are unavailable.
    """
    return build_published("mnist", root, valid, exclude, labels)


@published_dataset
def fashion_mnist(
    root: str | None = None, valid: float = 5000, exclude: Sequence[int] = (), labels: int | None = None
) -> Dataset:
    """Return Fashion-MNIST (Xiao et al. 2017): clothing, with the sizes and arguments of `mnist`."""
    return build_published("fashion_mnist", root, valid, exclude, labels)


@dataset
def digits(valid: float = 150, test: float = 360, exclude: Sequence[int] = (), labels: int | None = None) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits: 8×8, grey levels 0 … 16 (UCI, Alpaydin 1998).

    `valid` and `test` are counts, or shares of all images if < 1. Raises ValueError for an argument out of range.
    """
    total = 1797
    tested = count_held_out("test", test, total, total)

    @cache
    def read(part: str) -> Source:
        from sklearn.datasets import load_digits

        pixels, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
        whole = Source(pixels.byte().reshape(-1, 1, 8, 8), labels.long(), torch.arange(total), 1 / 16, 10)
        return split_by_position(whole, part, tested)

    kept = count_held_out("valid", valid, total, total - tested)
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
    """Return images from a .npy or .npz file: [N, H, W], [N, C, H, W], or [N, H, W, C] with C 1 or 3.

    Pixels are uint8 or floats in [0, 1]. With `scale`, the value of a white pixel, they may be any numbers from 0 to
    `scale`. A .npy of uint8 or float32 is memory-mapped and may be larger than memory.

    A .npz may contain labels, integers from 0 (-1: none). Its arrays are recognised by name: x and y, images and
    labels, data and target, arr_0 and arr_1, each optionally with a split, e.g. x_train, val_labels, test_images.
    Otherwise the only array with the shape of images is used. Splits in the file are kept. `keys` assigns arrays that
    are not recognised by name: {images: a, labels: b, test_images: c}.

    `valid` and `test` are counts, or shares of the file if < 1, of the images held out if the file has no such split.
    With `test_path`, that file is the test set. `split_by` is "content" or "position". With "content" the split of an
    image depends only on its pixels: adding images moves no other image, equal images share a split, and shares are
    approximate (see content_split.py). With "position" it depends on the position in the file: adding an image draws
    all splits anew. Configs without this key use "position".

    Raises ValueError for an argument out of range, and DataError for a file that is missing, damaged or ambiguous, or
    has no such images.
    """
    check_split_rule(split_by)
    parts = load_array_sources(path, keys, scale)
    whole = parts.get("all") or parts["train"]
    has_test = "test" in parts or test_path is not None
    tested = 0 if has_test else count_held_out("test", test, len(whole), len(whole))
    if test_path and not Path(test_path).expanduser().is_file():
        raise DataError(f"test_path must be a file, not {test_path}")

    @cache
    def read(part: str) -> Source:
        if part == "test" and test_path:
            other = load_test_source(test_path, keys, scale)
            if other.shape != whole.shape or 0 < whole.classes < other.classes:
                found, known = (f"{s.shape} of {s.classes} classes" for s in (other, whole))
                raise DataError(f"images in {test_path} are {found}, but those in {path} are {known}")
            return other
        if part != "train" and part in parts:
            return parts[part]
        return split_off_test(whole, part, tested, 0 if has_test else test, split_by)

    has_valid, by_content = "valid" in parts, split_by == "content"
    kept = 0 if has_valid else count_held_out("valid", valid, len(whole), len(whole) - tested)
    amount = valid if by_content and not has_valid else kept
    name, rules = Path(path).stem, {"by_content": by_content, "has_valid": has_valid}
    return Dataset(name, whole.shape, whole.classes, read, amount, exclude, labels, **rules)


def check_split_rule(split_by: str) -> None:
    """Raise ValueError unless `split_by` is one of SPLIT_RULES."""
    if split_by not in SPLIT_RULES:
        raise ValueError(f"split_by must be {' or '.join(SPLIT_RULES)}, not '{split_by}'")


def build_published(name: str, root: str | None, valid: float, exclude: Sequence[int], labels: int | None) -> Dataset:
    """Return the dataset whose IDX files `downloads.py` lists under this name."""

    @cache
    def read(part: str) -> Source:
        prefix = "train" if part == "train" else "t10k"
        files = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        content, folder = downloads.read_published_files(name, files, root), downloads.raw_folder(name, root)
        images, labels = (
            parse_idx(content[file], folder / file, rank) for file, rank in zip(files, (3, 1), strict=True)
        )
        return Source(images[:, None], labels.long(), torch.arange(len(images)), 1 / 255, 10)

    kept = count_held_out("valid", valid, TRAINING_IMAGES, TRAINING_IMAGES)
    return Dataset(name, (1, 28, 28), 10, read, kept, exclude, labels, is_fixed=True)


def parse_idx(content: bytes, path: Path, rank: int) -> Tensor:
    """Return the values of an IDX file with `rank` dimensions; raises DataError, naming `path`, for any other file.

    Format: bytes 0, 0, type (8: unsigned bytes), rank; each size as a big-endian 32-bit number; the values.
    """
    start = 4 + 4 * rank
    if len(content) < start or content[:4] != bytes((0, 0, 8, rank)):
        raise DataError(f"{path} is not an IDX file of bytes with {rank} dimensions: it starts with {content[:4]!r}")
    sizes = struct.unpack(f">{rank}I", content[4:start])
    if math.prod(sizes) != len(content) - start:
        raise DataError(f"{path} has {len(content) - start:,} values, but its header says {math.prod(sizes):,}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy())


def load_array_sources(
    path: str, keys: Mapping[str, str] | None = None, scale: float | None = None
) -> dict[str, Source]:
    """Return the images of a .npy or .npz file by split, "all" for a file without splits; see `arrays`."""
    file = Path(path).expanduser()
    parts = array_files.read_array_file(file, keys, scale)
    classes = max(int(part.labels.max()) for part in parts.values()) + 1
    return {
        name: Source(
            pixels, labels, torch.arange(len(pixels)), factor, classes, cache(partial(hash_array_file, file, pixels))
        )
        for name, (pixels, labels, factor) in parts.items()
    }


def load_test_source(path: str, keys: Mapping[str, str] | None = None, scale: float | None = None) -> Source:
    """Return the test images of a .npy or .npz file, or all images if it has no splits."""
    parts = load_array_sources(path, keys, scale)
    if found := parts.get("test") or parts.get("all"):
        return found
    raise DataError(f"{path} has training images but no test images: name them by dataset.keys=")


def draw_balanced(labels: Tensor, n: int, rng: Rng) -> Tensor:
    """Draw the positions [n] of random images, equally many of each class as far as possible; labels are [N]."""
    return pick_balanced(labels, n, rng.permutation(len(labels)))


def pick_balanced(labels: Tensor, n: int, order: Tensor) -> Tensor:
    """Return positions [n] of equally many images of each class, the first of each class in `order` [N].

    If n is not a multiple of the number of classes, some classes get one more; if a class has too few images, the
    others get more.
    """
    _, classes, counts = labels[order].unique(return_inverse=True, return_counts=True)
    by_class = classes.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[by_class] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[classes[by_class]]
    return order[rank.argsort(stable=True)[:n]]


def split_off_test(whole: Source, part: str, tested: int, test: float, split_by: str) -> Source:
    """Return the part "test" or "train" of all examples of a file.

    By position, `tested` examples are for testing; by content, the count or share `test` with the lowest positions.
    """
    if split_by == "position":
        return split_by_position(whole, part, tested)
    held = hold_out(hash_positions(whole.image_hashes()), test)
    return whole.take((held if part == "test" else ~held).nonzero().squeeze(1))


def split_by_position(whole: Source, part: str, tested: int) -> Source:
    """Return the part "test", the first `tested` examples of a fixed permutation, or "train", the others."""
    order = Rng(0).fork("test").permutation(len(whole))
    return whole.take((order[:tested] if part == "test" else order[tested:]).sort().values)


def count_held_out(name: str, amount: float, total: int, limit: int) -> int:
    """Return the count for `amount`, a count or a share of `total` if < 1; raises ValueError unless it is < `limit`."""
    if type(amount) in (int, float) and (0 <= amount < 1 or (amount >= 1 and float(amount).is_integer())):
        count = round(amount * total) if amount < 1 else int(amount)
        if count < limit:
            return count
    raise ValueError(f"{name} must be a count from 0 to {limit - 1:,}, or a share below 1, not {amount!r}")
