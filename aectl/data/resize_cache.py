"""Cache resized image files as one memory-mapped file of bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aectl.data.content_split import fingerprint_files
from aectl.data.downloads import DataError, data_folder
from aectl.data.image_files import ReadReport, read_image, read_image_files
from aectl.data.memmap import MappedImages
from aectl.system.atomic_write import describe_error
from aectl.system.file_lock import FileLock
from aectl.system.machine import memory_bytes

COPIES = 4
"""Float copies of an image while it is resized: original, resized along one side, along both, clipped to [0, 1]."""

log = logging.getLogger("aectl")


def load_resized(
    files: Sequence[Path], shape: tuple[int, int, int], white: float | None = None
) -> tuple[MappedImages, Tensor]:
    """Return resized images as bytes [N, C, H, W], from the cache if possible, and the positions [N] of their files.

    Unreadable files are omitted. Notices about the files are logged every time.
    """
    kept = data_folder() / "folders" / f"{fingerprint_files(files, shape, white)}.npy"
    facts = kept.with_suffix(".json")
    if not (kept.is_file() and facts.is_file()):
        with create_folder(kept.parent), FileLock(kept.with_suffix(".lock")).hold(purpose="resizes these images"):
            if not (kept.is_file() and facts.is_file()):
                log.info("resizing %s images, once", f"{len(files):,}")
                write_resized(kept, facts, files, shape, white)
    found = json.loads(facts.read_text(encoding="utf-8"))
    for notice in found["notices"]:
        log.warning("%s", notice)
    positions = torch.tensor(found["positions"], dtype=torch.int64)
    return MappedImages(np.load(kept, mmap_mode="r"), torch.arange(len(positions))), positions


UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


@contextlib.contextmanager
def create_folder(folder: Path) -> Iterator[None]:
    """Create a folder of the cache; raises DataError if it is not writable within the block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DataError(
            f"{describe_error(error, folder)}\n  Set AECTL_DATA=DIR to keep resized images elsewhere."
        ) from error


def check_space(path: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Raise DataError if `count` images of a shape do not fit on the disk, or one of them not into memory."""
    needed, free = count * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(f"{count:,} images of {shape} take {needed:,} bytes, but {path.parent} has only {free:,} free")
    if (numbers := 4 * math.prod(shape)) > memory_bytes() / COPIES:
        raise DataError(f"an image of {shape} takes {COPIES} × {numbers:,} bytes of memory, which this machine lacks")


def write_resized(
    path: Path, facts: Path, files: Sequence[Path], shape: tuple[int, int, int], white: float | None
) -> None:
    """Write the resized images to `path`, and the positions of their files and the notices to `facts`.

    `path` is written atomically. Unreadable files are omitted: the images of the others fill the first rows.
    """
    check_space(path, len(files), shape)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    survey = ReadReport()
    positions: list[int] = []
    try:
        pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        for position, image in read_image_files(files, lambda file: read_image(file, shape, white, survey), survey):
            pixels[len(positions)] = (image * 255).round().byte().numpy()
            positions.append(position)
        pixels.flush()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    name = files[0].parent.name if len(files) == 1 else Path(os.path.commonpath(files)).name
    text = json.dumps({"positions": positions, "notices": survey.notices(name)})
    facts.write_text(text, encoding="utf-8")
