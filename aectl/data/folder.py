"""Load image files from folders, a sub-folder for each class, resized once into a file of bytes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from aectl.data.content_split import hash_image_files
from aectl.data.datasets import Dataset, Source, SplitRule, check_split_rule, dataset, divide, held_out, rows_of
from aectl.data.downloads import DataError
from aectl.data.image_files import SYSTEM_FOLDERS, files_below, is_class_folder, is_image, kind_of, skipped_line
from aectl.data.pixel_range import check_white
from aectl.data.resize_cache import resized

log = logging.getLogger("aectl")


@dataset
def folder(
    root: str,
    test_root: str | None = None,
    size: int = 28,
    channels: int = 1,
    valid: float = 0.1,
    test: float = 0.1,
    exclude: Sequence[int] = (),
    labels: int | None = None,
    split_by: SplitRule = "position",
    scale: float | None = None,
) -> Dataset:
    """Return the image files below a folder, resized to `size` × `size` with antialiasing; `channels` 1 is grey, 3 RGB.

    Sub-folders with images are the classes, in the order of their names, as in torchvision's ImageFolder; images next
    to them are skipped. A folder of images alone has no classes. Hidden folders, those of systems (`__MACOSX`), empty
    ones, other files and files that cannot be read are skipped, and counted in a line. Links are followed. Of several
    pages or frames the first is used. `scale` is the value of a white pixel: null means that of each file's type, 255,
    65535 (16 bits) or 1 (floats).

    The resized bytes are kept in the user's cache, mapped into memory, until a file changes. `valid` and `test` are
    counts, or shares of the images if < 1; with a `test_root`, whose classes are among those of `root`, that is the
    test set and `test` is not used.

    `split_by` is "content" (of each file's bytes, so that neither more files nor another `size` move one between the
    splits, and copies of a file are all in one; shares are approximate, see content_split.py) or "position" (among all
    files: adding one draws all splits anew), which is the rule of runs whose config has no such key.

    Raises ValueError for an argument out of range, and DataError for a folder that is missing or has no image that can
    be read, or for pixels beyond `scale`.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    check_split_rule(split_by)
    check_white(scale)
    shape = (channels, size, size)
    place = Path(root).expanduser()
    files, names = files_of(place)
    tests = test_files(Path(test_root).expanduser(), names, root) if test_root else []
    # Before the files are read, which may take minutes.
    tested = 0 if test_root else held_out("test", test, len(files), len(files))
    held_out("valid", valid, len(files), len(files) - tested)
    whole = source(files, shape, len(names), scale)
    tested = 0 if test_root else held_out("test", test, len(whole), len(whole))

    @cache
    def read(part: str) -> Source:
        if part == "train" or not test_root:
            return divide(whole, part, tested, 0 if test_root else test, split_by)
        return source(tests, shape, len(names), scale)

    kept = held_out("valid", valid, len(whole), len(whole) - tested)
    by_content = split_by == "content"
    return Dataset(place.name, shape, len(names), read, valid if by_content else kept, exclude, labels, by_content)


def test_files(place: Path, names: Sequence[str], root: str) -> list[tuple[Path, int]]:
    """Return the files of a test folder with the classes of the training folder; raises DataError for other classes."""
    files, own = files_of(place)
    if unknown := [name for name in own if name not in names]:
        raise DataError(f"{place} has a class (sub-folder) '{unknown[0]}' that {root} lacks")
    if names and not own:
        raise DataError(f"{place} has no classes (sub-folders), where {root} has {len(names)}")
    return [(path, names.index(own[y]) if own else -1) for path, y in files]


def classes_of(place: Path, skipped: Counter[str]) -> dict[str, list[Path]]:
    """Return the image files of each class, by the names of the sub-folders; `skipped` counts what holds none.

    A folder whose sub-folders hold no images has its own images as the one class "".
    """
    if not place.is_dir():
        raise DataError(f"{place} is not a folder")
    within = [path for path in sorted(place.iterdir()) if path.is_dir()]
    kept = [path for path in within if is_class_folder(path)]
    for path in within:
        if path not in kept:
            skipped["system folder" if path.name in SYSTEM_FOLDERS else "hidden folder"] += 1
    found = {path.name: files_below(path, skipped) for path in kept}
    classes = {name: files for name, files in found.items() if files}
    skipped["empty folder"] += len(found) - len(classes)
    loose = [path for path in place.iterdir() if path.is_file()]
    if classes:
        for path in loose:
            skipped["loose image next to the classes" if is_image(path) else kind_of(path)] += 1
        return classes
    for path in loose:
        if not is_image(path):
            skipped[kind_of(path)] += 1
    return {"": sorted(filter(is_image, loose))}


def files_of(place: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Return all image files with their classes, -1 where there are none, and the names of the classes.

    Logs in a line what was skipped; raises DataError if there is no image file.
    """
    skipped: Counter[str] = Counter()
    classes = classes_of(place, skipped)
    if line := skipped_line(place, skipped):
        log.warning("%s", line)
    names = [name for name in classes if name]
    files = [(path, y if names else -1) for y, found in enumerate(classes.values()) for path in found]
    if not files:
        raise DataError(f"{place} holds no image file")
    return files, names


def source(
    files: Sequence[tuple[Path, int]], shape: tuple[int, int, int], classes: int, scale: float | None = None
) -> Source:
    """Return the images of files as bytes [N, C, H, W] with their classes; those that cannot be read are left out."""
    paths = [path for path, _ in files]
    images, positions = resized(paths, shape, scale)
    labels = torch.tensor([y for _, y in files])
    hashes = partial(rows_of, cache(partial(hash_image_files, paths)), positions)
    return Source(images, labels[positions], positions, 1 / 255, classes, hashes)
