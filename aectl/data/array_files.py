"""Images and labels as NumPy keeps them, in .npy and .npz files of one's own: read and checked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib.format import MAGIC_PREFIX
from torch import Tensor

from aectl.data.mapped import PIECE, Mapped, can_stay
from aectl.data.sources import DataError
from aectl.machine import memory_bytes

MOST_CLASSES = 2**31
LARGEST, MOST = 2**31, 100
"""Bytes that any .npz may hold, and how many times its own size a larger one may; images shrink to a tenth or so."""


def read(file: Path) -> tuple[Tensor | Mapped, Tensor]:
    """Return a file's images [N, C, H, W], uint8 or float32, and its labels [N], int64, -1 where it has none.

    What it may hold is told by `arrays` in `datasets.py`; raises DataError for anything else.
    """
    if not file.is_file():
        raise DataError(f"{file} is not there, or is no file")
    try:
        found = content_of(file)
    except DataError:
        raise
    except Exception as error:
        # NumPy, zipfile and Python's parser of headers raise nearly anything of damaged bytes: MemoryError, TokenError.
        raise DataError(f"{file} is no .npy or .npz file of numbers, or is damaged (pickles are not loaded)") from error
    labels = next((found.pop(key) for key in ("y", "labels") if key in found), None)
    images = next((found[key] for key in ("x", "images", *found) if key in found), np.empty(0))
    pixels = check_images(images, file)
    if labels is None:
        labels = np.full(images.shape[:1], -1)
    elif labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or not in_range(labels):
        raise DataError(f"labels in {file} must be integers from -1, one an image, not {labels.dtype} {labels.shape}")
    return pixels, torch.from_numpy(labels.astype(np.int64, copy=False))


def content_of(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz by name, or that of a .npy, mapped into memory, as `x`."""
    # NumPy warns of sizes whose product is no 64-bit number, and goes on with another one.
    with file.open("rb") as stream, np.errstate(over="raise"):
        if stream.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
            return {"x": np.load(file, mmap_mode="r", allow_pickle=False)}
        stream.seek(0)
        check_unpacked(file, stream)
        return dict(np.load(stream, allow_pickle=False))


def check_unpacked(file: Path, stream: IO[bytes]) -> None:
    """Raise DataError if what a .npz holds is larger than memory, or far larger than the file, once it is unpacked."""
    with zipfile.ZipFile(stream) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > memory_bytes():
        raise DataError(f"{file} has {size:,} bytes unpacked, and this machine's memory {memory_bytes():,.0f}")
    if size > max(LARGEST, MOST * file.stat().st_size):
        raise DataError(f"{file} would unpack to {size:,} bytes; a .npy has them as they are")
    stream.seek(0)


def in_range(labels: np.ndarray) -> bool:
    """Return whether labels are classes, or -1 for none."""
    return not ((labels < -1).any() or (labels >= MOST_CLASSES).any())


def check_images(images: np.ndarray, file: Path) -> Tensor | Mapped:
    """Return images as [N, C, H, W], uint8 or float32; raises DataError unless they are such."""
    shape, stays = images.shape, can_stay(images)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or not images.size or images.shape[1] not in (1, 3):
        raise DataError(f"images in {file} must be [N, H, W], [N, C, H, W] or [N, H, W, C] with C 1 or 3, not {shape}")
    if images.dtype != np.uint8:
        if images.dtype.kind != "f":
            raise DataError(f"images in {file} must be uint8, or floats in [0, 1], not {images.dtype}")
        low, high = extremes(images)
        if not (low >= 0 and high <= 1):
            raise DataError(f"floats in {file} must lie in [0, 1], but go from {low:g} to {high:g}")
    if stays:
        return Mapped(images)
    return torch.from_numpy(np.array(images, np.uint8 if images.dtype == np.uint8 else np.float32, order="C"))


def extremes(images: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest of all pixels, NaN if one of them is: a file is read once, piece by piece."""
    pieces = [(part.min(), part.max()) for part in (images[i : i + PIECE] for i in range(0, len(images), PIECE))]
    low, high = np.asarray(pieces).T
    return float(low.min()), float(high.max())
