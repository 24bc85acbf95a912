"""Cache resized image files as one file of bytes, mapped into memory."""

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

from aectl.data.content_split import state_of_files
from aectl.data.downloads import DataError, data_folder
from aectl.data.image_files import Survey, picture, read_all
from aectl.data.memmap import Mapped
from aectl.system.atomic_write import describe_error
from aectl.system.file_lock import FileLock
from aectl.system.machine import memory_bytes

COPIES = 4
"""An image while it is resized: as floats, along one side, along both, and cut to [0, 1]."""

log = logging.getLogger("aectl")


def resized(files: Sequence[Path], shape: tuple[int, int, int], white: float | None = None) -> tuple[Mapped, Tensor]:
    """Return images as bytes [N, C, H, W], read now or by an earlier call, and the positions [N] of their files.

    Files that cannot be read are left out. What the survey of the files noticed is logged each time.
    """
    kept = data_folder() / "folders" / f"{state_of_files(files, shape, white)}.npy"
    facts = kept.with_suffix(".json")
    if not (kept.is_file() and facts.is_file()):
        with making(kept.parent), FileLock(kept.with_suffix(".lock")).held(purpose="resizes these images"):
            if not (kept.is_file() and facts.is_file()):
                log.info("resizing %s images, once", f"{len(files):,}")
                make(kept, facts, files, shape, white)
    found = json.loads(facts.read_text(encoding="utf-8"))
    for notice in found["notices"]:
        log.warning("%s", notice)
    positions = torch.tensor(found["positions"], dtype=torch.int64)
    return Mapped(np.load(kept, mmap_mode="r"), torch.arange(len(positions))), positions


UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder of the cache; raises DataError, naming the variable that helps, if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DataError(
            f"{describe_error(error, folder)}\n  set AECTL_DATA=DIR to keep resized images elsewhere"
        ) from error


def check_room(path: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Raise DataError if so many images of a shape do not fit the disk, or one of them not the memory."""
    needed, free = count * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(f"{count:,} images of {shape} take {needed:,} bytes, and {path.parent} has {free:,} left")
    if (numbers := 4 * math.prod(shape)) > memory_bytes() / COPIES:
        raise DataError(f"an image of {shape} takes {COPIES} × {numbers:,} bytes of memory, which this machine lacks")


def make(path: Path, facts: Path, files: Sequence[Path], shape: tuple[int, int, int], white: float | None) -> None:
    """Write the resized images into `path`, and which files they are of and what was noticed into `facts`.

    Each is whole or absent. Images of files that cannot be read are missing: the others fill the first rows.
    """
    check_room(path, len(files), shape)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    survey = Survey()
    positions: list[int] = []
    try:
        pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        for position, image in read_all(files, lambda file: picture(file, shape, white, survey), survey):
            pixels[len(positions)] = (image * 255).round().byte().numpy()
            positions.append(position)
        pixels.flush()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    name = files[0].parent.name if len(files) == 1 else Path(os.path.commonpath(files)).name
    text = json.dumps({"positions": positions, "notices": survey.notices(name)})
    facts.write_text(text, encoding="utf-8")
