"""Image files as pixels: what Pillow opens, in the size and the channels of a model."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from aectl.data.sources import DataError

FOREIGN = ("EPS",)
"""Formats that Pillow hands to another program: PostScript is a language, and Ghostscript would run it."""


@cache
def suffixes() -> frozenset[str]:
    """Return what the names of image files end in, with the dot."""
    return frozenset(suffix for suffix, format in Image.registered_extensions().items() if format in formats())


@cache
def formats() -> tuple[str, ...]:
    """Return the formats that are read: those that Pillow reads by itself, by whatever name a file goes."""
    Image.init()
    return tuple(format for format in Image.OPEN if format not in FOREIGN)


def is_image(file: Path) -> bool:
    """Return whether a path is that of an image file, by its name."""
    return file.suffix.lower() in suffixes() and not file.name.startswith(".") and file.is_file()


def image_files(place: Path) -> list[Path]:
    """Return the file itself, or a folder's files with the suffix of an image, by name; raises DataError for none."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"images: {place} is not there")
    files = sorted(file for file in place.iterdir() if is_image(file))
    if not files:
        raise DataError(f"images: {place} holds no image file (its sub-folders are not looked into)")
    return files


def picture(file: Path, shape: tuple[int, int, int]) -> Tensor:
    """Return one image file as [C, H, W] in [0, 1]; raises DataError, naming the file, if it cannot be read."""
    channels, *size = shape
    try:
        with warnings.catch_warnings():
            # A large photograph is none; what is twice as large is refused.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats()) as opened:
                pixels = intensities(ImageOps.exif_transpose(opened), channels)
    except Exception as error:
        # Pillow's readers raise nearly anything of damaged bytes: SyntaxError, TypeError, struct.error.
        raise DataError(f"{file} cannot be read as an image: {error}") from error
    if list(pixels.shape[1:]) != size:
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]
    return pixels.clamp(0, 1)


def intensities(image: Image.Image, channels: int) -> Tensor:
    """Return an image's pixels [channels, H, W] in [0, 1]; raises ValueError for floats outside."""
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow's own conversion of these would cut them at 255; it reads 16-bit files as I;16 or as I.
        values = torch.from_numpy(np.asarray(image, dtype=np.float32) / (1 if image.mode == "F" else 65535))
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("its numbers are neither 16-bit nor floats in [0, 1]")
        return values.expand(channels, *values.shape)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1)
