"""Image files as one file of bytes in the user's cache, made once and mapped into memory."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from aectl.data.mapped import Mapped
from aectl.data.pictures import picture
from aectl.data.sources import data_folder

log = logging.getLogger("aectl")


def resized(files: Sequence[Path], shape: tuple[int, int, int]) -> Mapped:
    """Return images as bytes [N, C, H, W], from the file that an earlier call has left, or made now."""
    kept = data_folder() / "folders" / f"{digest(files, shape)}.npy"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if not kept.is_file():
            log.info("resizing %s images, once", f"{len(files):,}")
            make(kept, files, shape)
    return Mapped(np.load(kept, mmap_mode="r"))


def digest(files: Sequence[Path], shape: tuple[int, int, int]) -> str:
    """Return a name that changes with the files and with what is made of them."""
    found = [(str(path.absolute()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    return hashlib.sha256(repr((found, shape)).encode()).hexdigest()[:32]


def make(path: Path, files: Sequence[Path], shape: tuple[int, int, int]) -> None:
    """Write the resized images into a file, which is whole or absent."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    try:
        pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=(len(files), *shape))
        for number, file in enumerate(files):
            pixels[number] = (picture(file, shape) * 255).round().byte().numpy()
        pixels.flush()
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
