"""Load image files from a folder with one sub-folder per class; resized images are cached."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch

from aectl.data.content_split import hash_image_files
from aectl.data.datasets import (
    Dataset,
    Source,
    SplitRule,
    check_split_rule,
    count_held_out,
    dataset,
    select_rows,
    split_off_test,
)
from aectl.data.downloads import DataError
from aectl.data.image_files import (
    SYSTEM_FOLDERS,
    describe_skipped,
    find_image_files,
    is_class_folder,
    is_image,
    summarise_skipped,
)
from aectl.data.pixel_range import check_white
from aectl.data.resize_cache import load_resized

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

    Sub-folders with images are the classes, sorted by name, as in torchvision's ImageFolder; images next to them are
    skipped. A folder without such sub-folders has no classes. Hidden folders, system folders (`__MACOSX`), empty
    folders, other files and unreadable files are skipped, and their numbers are logged. Links are followed. Only the
    first page or frame of a file is used. `scale` is the value of a white pixel; None means 255 for 8 bits, 65535 for
    16 bits and 1 for floats.

    Resized images are kept in the user's cache, memory-mapped, until a file changes. `valid` and `test` are counts, or
    shares of the images if < 1. With `test_root`, whose classes must occur in `root`, that folder is the test set and
    `test` is ignored.

    `split_by` is "content" or "position". With "content" the split of a file depends only on its bytes: adding files or
    changing `size` moves no file to another split, copies of a file share a split, and shares are approximate (see
    content_split.py). With "position" it depends on the position among all files: adding a file draws all splits anew.
    Configs without this key use "position".

    Raises ValueError for an argument out of range, and DataError for a missing folder, a folder without readable
    images, or pixels greater than `scale`.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    check_split_rule(split_by)
    check_white(scale)
    shape = (channels, size, size)
    place = Path(root).expanduser()
    files, names = list_files(place)
    tests = list_test_files(Path(test_root).expanduser(), names, root) if test_root else []
    # Check the arguments before reading the files, which may take minutes.
    tested = 0 if test_root else count_held_out("test", test, len(files), len(files))
    count_held_out("valid", valid, len(files), len(files) - tested)
    whole = load_source(files, shape, len(names), scale)
    tested = 0 if test_root else count_held_out("test", test, len(whole), len(whole))

    @cache
    def read(part: str) -> Source:
        if part == "train" or not test_root:
            return split_off_test(whole, part, tested, 0 if test_root else test, split_by)
        return load_source(tests, shape, len(names), scale)

    kept = count_held_out("valid", valid, len(whole), len(whole) - tested)
    by_content = split_by == "content"
    return Dataset(place.name, shape, len(names), read, valid if by_content else kept, exclude, labels, by_content)


def list_test_files(place: Path, names: Sequence[str], root: str) -> list[tuple[Path, int]]:
    """Return the files of a test folder, labelled by the classes of the training folder.

    Raises DataError for a class that the training folder lacks.
    """
    files, own = list_files(place)
    if unknown := [name for name in own if name not in names]:
        raise DataError(f"{place} has a class (sub-folder) '{unknown[0]}' that {root} lacks")
    if names and not own:
        raise DataError(f"{place} has no classes (sub-folders), but {root} has {len(names)}")
    return [(path, names.index(own[y]) if own else -1) for path, y in files]


def find_classes(place: Path, skipped: Counter[str]) -> dict[str, list[Path]]:
    """Return the image files of each class by sub-folder name, and count what is skipped in `skipped`.

    If no sub-folder holds images, the images of the folder itself form the only class "".
    """
    if not place.is_dir():
        raise DataError(f"{place} is not a folder")
    within = [path for path in sorted(place.iterdir()) if path.is_dir()]
    kept = [path for path in within if is_class_folder(path)]
    for path in within:
        if path not in kept:
            skipped["system folder" if path.name in SYSTEM_FOLDERS else "hidden folder"] += 1
    found = {path.name: find_image_files(path, skipped) for path in kept}
    classes = {name: files for name, files in found.items() if files}
    skipped["empty folder"] += len(found) - len(classes)
    loose = [path for path in place.iterdir() if path.is_file()]
    if classes:
        for path in loose:
            skipped["loose image next to the classes" if is_image(path) else describe_skipped(path)] += 1
        return classes
    for path in loose:
        if not is_image(path):
            skipped[describe_skipped(path)] += 1
    return {"": sorted(filter(is_image, loose))}


def list_files(place: Path) -> tuple[list[tuple[Path, int]], list[str]]:
    """Return all image files with their class (-1 without classes), and the class names.

    Logs what was skipped. Raises DataError if there is no image file.
    """
    skipped: Counter[str] = Counter()
    classes = find_classes(place, skipped)
    if line := summarise_skipped(place, skipped):
        log.warning("%s", line)
    names = [name for name in classes if name]
    files = [(path, y if names else -1) for y, found in enumerate(classes.values()) for path in found]
    if not files:
        raise DataError(f"{place} holds no image file")
    return files, names


def load_source(
    files: Sequence[tuple[Path, int]], shape: tuple[int, int, int], classes: int, scale: float | None = None
) -> Source:
    """Return the images of files as bytes [N, C, H, W] with their classes; unreadable files are omitted."""
    paths = [path for path, _ in files]
    images, positions = load_resized(paths, shape, scale)
    labels = torch.tensor([y for _, y in files])
    hashes = partial(select_rows, cache(partial(hash_image_files, paths)), positions)
    return Source(images, labels[positions], positions, 1 / 255, classes, hashes)
