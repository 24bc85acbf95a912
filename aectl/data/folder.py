"""One's own image files in folders, one for each class, resized once into a file of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from aectl.data.content_split import hash_image_files
from aectl.data.datasets import Dataset, Source, check_split_rule, divide, held_out
from aectl.data.pictures import is_image
from aectl.data.resized import resized
from aectl.data.sources import DataError


def folder(
    root: str,
    test_root: str | None = None,
    size: int = 28,
    channels: int = 1,
    valid: float = 0.1,
    test: float = 0.1,
    exclude: Sequence[int] = (),
    labels: int | None = None,
    split_by: str = "position",
) -> Dataset:
    """Return the image files below a folder, resized to `size` × `size` with antialiasing; `channels` 1 is grey, 3 RGB.

    Sub-folders are the classes, in the order of their names, as in torchvision's ImageFolder; a folder of images alone
    has no classes. The resized bytes are kept in the user's cache, mapped into memory, until a file changes. `valid`
    and `test` are counts, or shares of the images if < 1; with a `test_root`, which has the same classes, that is the
    test set and `test` is not used.

    `split_by` is "content" (of each file's bytes, so that neither more files nor another `size` move one between the
    splits, and copies of a file are all in one; shares are approximate, see content_split.py) or "position" (among all
    files: adding one draws all splits anew), which is the rule of runs whose config has no such key.

    Raises ValueError for an argument out of range, and DataError for a folder that is missing or has no images, or for
    a file that cannot be read.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    check_split_rule(split_by)
    shape = (channels, size, size)
    place = Path(root).expanduser()
    names = classes_of(place)
    files = files_of(place, names)
    if test_root and classes_of(Path(test_root).expanduser()) != names:
        raise DataError(f"{test_root} has other classes (sub-folders) than {root}")
    tested = 0 if test_root else held_out("test", test, len(files), len(files))

    @cache
    def read(part: str) -> Source:
        if part == "train" or not test_root:
            return divide(source(files, shape, len(names)), part, tested, 0 if test_root else test, split_by)
        return source(files_of(Path(test_root).expanduser(), names), shape, len(names))

    kept = held_out("valid", valid, len(files), len(files) - tested)
    by_content = split_by == "content"
    return Dataset(place.name, shape, len(names), read, valid if by_content else kept, exclude, labels, by_content)


def classes_of(place: Path) -> list[str]:
    """Return the names of the sub-folders, none where the images lie in the folder itself."""
    if not place.is_dir():
        raise DataError(f"{place} is no folder")
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_of(place: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Return all image files with their classes, -1 where there are none; raises DataError if there is no file."""
    if classes:
        found = [(path, y) for y, name in enumerate(classes) for path in sorted((place / name).rglob("*"))]
    else:
        found = [(path, -1) for path in sorted(place.iterdir())]
    files = [(path, y) for path, y in found if is_image(path)]
    if not files:
        raise DataError(f"{place} holds no image file")
    return files


def source(files: Sequence[tuple[Path, int]], shape: tuple[int, int, int], classes: int) -> Source:
    """Return the images of files as bytes [N, C, H, W] with their classes."""
    paths = [path for path, _ in files]
    images, labels = resized(paths, shape), torch.tensor([y for _, y in files])
    return Source(images, labels, torch.arange(len(files)), 1 / 255, classes, cache(partial(hash_image_files, paths)))
