"""Find image files and read them with Pillow, in the size and number of channels of a model."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from aectl.data.downloads import DataError
from aectl.data.pixel_range import describe_dim_pixels, suggest_white

EXTERNAL_FORMATS = ("EPS",)
"""Formats that are not read because Pillow uses an external program: Ghostscript would execute PostScript code."""
PALETTES = ("1", "P", "PA")
"""Pillow modes whose values are palette indices, so that `scale` does not apply."""
SYSTEM_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")
"""Folders created by archive programs and operating systems."""

T = TypeVar("T")


class UnreadableImage(DataError):
    """Pillow cannot open or decode a file."""


@dataclass
class ReadReport:
    """Observations while reading image files: maximum value, files with several pages, unreadable files."""

    brightest: float = 0.0
    """Maximum value of any file, before scaling."""
    scale: float = 1.0
    """Factor that scales that value to [0, 1]."""
    paged: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def record_maximum(self, brightest: float, scale: float) -> None:
        """Record the maximum value of a file."""
        if brightest * scale > self.brightest * self.scale:
            self.brightest, self.scale = brightest, scale

    def notices(self, name: str) -> list[str]:
        """Return the notices for the user, one line each."""
        lines = [describe_dim_pixels(self.brightest, self.scale, name)]
        if self.paged:
            lines.append(f"{name}: using only the first page or frame of {summarise_names(self.paged)}")
        if self.unreadable:
            lines.append(f"{name}: skipped unreadable {summarise_names(self.unreadable)}")
        return [line for line in lines if line]


def summarise_names(names: Sequence[str]) -> str:
    """Return the only name, or the number of names and the first one."""
    return names[0] if len(names) == 1 else f"{len(names):,} files ({names[0]}, …)"


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files, with the dot."""
    return frozenset(suffix for suffix, format in Image.registered_extensions().items() if format in readable_formats())


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that Pillow reads without an external program."""
    Image.init()
    return tuple(format for format in Image.OPEN if format not in EXTERNAL_FORMATS)


def is_image(file: Path) -> bool:
    """Return whether a path is a file with the name of an image."""
    return file.suffix.lower() in image_suffixes() and not file.name.startswith(".") and file.is_file()


def is_class_folder(place: Path) -> bool:
    """Return whether a path is a folder that is neither hidden nor a system folder."""
    return place.is_dir() and not place.name.startswith(".") and place.name not in SYSTEM_FOLDERS


def find_image_files(place: Path, skipped: Counter[str]) -> list[Path]:
    """Return all image files below a folder, sorted, following links; count skipped files by reason in `skipped`."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for top, folders, names in os.walk(place, followlinks=True):
        here = Path(top)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            # Already visited: a link points to a parent folder.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        kept = [name for name in folders if is_class_folder(here / name)]
        for name in set(folders) - set(kept):
            skipped["system folder" if name in SYSTEM_FOLDERS else "hidden folder"] += 1
        folders[:] = kept
        for file in map(here.joinpath, names):
            if is_image(file):
                found.append(file)
            else:
                skipped[describe_skipped(file)] += 1
    return sorted(found)


def describe_skipped(file: Path) -> str:
    """Return the label under which a skipped file is counted: its suffix, or hidden."""
    if file.name.startswith("."):
        return "hidden file"
    return f"{file.suffix.lower()[:12]} file" if file.suffix else "extensionless file"


def summarise_skipped(place: Path, skipped: Counter[str]) -> str:
    """Return a line about the skipped content of a folder; empty if there are only hidden files."""
    counts = {what: number for what, number in skipped.items() if number}
    if set(counts) <= {"hidden file"}:
        return ""
    texts = [f"{number:,} {what}{'s' if number > 1 else ''}" for what, number in sorted(counts.items())]
    return f"{place.name}: skipped {', '.join(texts)}"


def list_image_files(place: Path, skipped: Counter[str] | None = None) -> list[Path]:
    """Return the file itself, or the image files of a folder, sorted by name.

    Sub-folders are not searched. Skipped files are counted in `skipped`. Raises DataError if there is no image file.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"images: {place} does not exist")
    skipped = Counter() if skipped is None else skipped
    files = []
    for file in sorted(place.iterdir()):
        if is_image(file):
            files.append(file)
        else:
            skipped["folder" if file.is_dir() else describe_skipped(file)] += 1
    if not files:
        raise DataError(f"images: {place} holds no image file (its sub-folders are not searched)")
    return files


def read_image_files(files: Sequence[Path], read: Callable[[Path], T], survey: ReadReport) -> Iterator[tuple[int, T]]:
    """Yield (position, `read(file)`) for each readable file, and record unreadable files in `survey`.

    Raises UnreadableImage for the first file if none is readable.
    """
    first: UnreadableImage | None = None
    count = 0
    for position, file in enumerate(files):
        try:
            found = read(file)
        except UnreadableImage as error:
            first = first or error
            survey.unreadable.append(f"{file.parent.name}/{file.name}")
            continue
        count += 1
        yield position, found
    if first and not count:
        raise first


def read_image(
    file: Path, shape: tuple[int, int, int], white: float | None = None, survey: ReadReport | None = None
) -> Tensor:
    """Return an image file as pixels [C, H, W] in [0, 1], resized to `shape`.

    `white` is the value of a white pixel, by default 255 for 8 bits, 65535 for 16 bits and 1 for floats. Raises
    UnreadableImage if the file cannot be read, and DataError for values outside [0, white].
    """
    channels, *size = shape
    survey = ReadReport() if survey is None else survey
    try:
        with warnings.catch_warnings():
            # Large photographs are fine. Pillow still raises an error at twice the size of this warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=readable_formats()) as opened:
                if getattr(opened, "n_frames", 1) > 1:
                    survey.paged.append(file.name)
                pixels = scale_pixels(ImageOps.exif_transpose(opened), channels, white, survey)
    except OutOfRange as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from error
    except Exception as error:
        # Pillow raises almost any exception for damaged files, including SyntaxError, TypeError and struct.error.
        raise UnreadableImage(f"{file} cannot be read as an image: {error}") from error
    if list(pixels.shape[1:]) != size:
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]
    return pixels.clamp(0, 1)


class OutOfRange(ValueError):
    """Pixel values are outside [0, white]."""


def scale_pixels(image: Image.Image, channels: int, white: float | None, survey: ReadReport) -> Tensor:
    """Return the pixels [channels, H, W] of an image in [0, 1]; raises OutOfRange for values above white."""
    if image.mode == "F" or image.mode.startswith("I"):
        # Does not include 16-bit "LA" or "RGBA", which Pillow has converted to 8 bits.
        return scale_high_depth(image, white, survey).expand(channels, image.height, image.width)
    full = 255 if white is None or image.mode in PALETTES else white
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Transparent pixels become white.
        ground = min(round(full), 255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (ground,) * 3 + (255,)), image.convert("RGBA"))
    values = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    greatest = float(values.max())
    survey.record_maximum(greatest, 1 / full)
    if greatest > full:
        raise OutOfRange(f"its values go up to {greatest:g}, more than dataset.scale={full:g}")
    return torch.from_numpy(values / np.float32(full)).view(*values.shape[:2], channels).permute(2, 0, 1)


def scale_high_depth(image: Image.Image, white: float | None, survey: ReadReport) -> Tensor:
    """Return the pixels [H, W] in [0, 1] of a grey image of 16 bits, 32 bits or floats; transparent means white."""
    # Pillow's own conversion would clip at 255. It opens 16-bit files with mode I;16 or I.
    values = np.asarray(image, dtype=np.float32)
    full = white or (1 if image.mode == "F" else 65535)
    least, greatest = float(values.min()), float(values.max())
    if not (least >= 0 and greatest <= full):
        kind = f"in [0, {full:g}]" if white else "16-bit or floats in [0, 1]"
        raise OutOfRange(
            f"its values are not {kind}, but go from {least:.9g} to {greatest:.9g}: {suggest_white(greatest)}"
        )
    survey.record_maximum(greatest, 1 / full)
    if isinstance(clear := image.info.get("transparency"), int):
        values = np.where(values == clear, np.float32(full), values)
    return torch.from_numpy(values / np.float32(full))
