"""Image files as one file of bytes in the user's cache, made once and mapped into memory."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from aectl.data.content_split import state_of_files
from aectl.data.mapped import Mapped
from aectl.data.pictures import picture
from aectl.data.sources import DataError, data_folder
from aectl.machine import memory_bytes

COPIES = 4
"""An image while it is resized: as floats, along one side, along both, and cut to [0, 1]."""

log = logging.getLogger("aectl")


def resized(files: Sequence[Path], shape: tuple[int, int, int]) -> Mapped:
    """Return images as bytes [N, C, H, W], from the file that an earlier call has left, or made now."""
    kept = data_folder() / "folders" / f"{state_of_files(files, shape)}.npy"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if not kept.is_file():
            log.info("resizing %s images, once", f"{len(files):,}")
            make(kept, files, shape)
    return Mapped(np.load(kept, mmap_mode="r"))


def check_room(path: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Raise DataError if so many images of a shape do not fit the disk, or one of them not the memory."""
    needed, free = count * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(f"{count:,} images of {shape} take {needed:,} bytes, and {path.parent} has {free:,} left")
    if (numbers := 4 * math.prod(shape)) > memory_bytes() / COPIES:
        raise DataError(f"an image of {shape} takes {COPIES} × {numbers:,} bytes of memory, which this machine lacks")


def make(path: Path, files: Sequence[Path], shape: tuple[int, int, int]) -> None:
    """Write the resized images into a file, which is whole or absent."""
    check_room(path, len(files), shape)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    try:
        pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        for number, file in enumerate(files):
            pixels[number] = (picture(file, shape) * 255).round().byte().numpy()
        pixels.flush()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
