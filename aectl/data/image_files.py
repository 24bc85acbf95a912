"""Read image files as pixels: what Pillow opens, in the size and the channels of a model."""

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
from aectl.data.pixel_range import dim_notice, white_hint

FOREIGN = ("EPS",)
"""Formats that Pillow hands to another program: PostScript is a language, and Ghostscript would run it."""
PALETTES = ("1", "P", "PA")
"""Modes whose numbers are indices of colours, so that no value of them is white."""
SYSTEM_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")
"""Folders that archives and systems leave behind; those that begin with a dot are hidden."""

T = TypeVar("T")


class UnreadableImage(DataError):
    """A file that Pillow cannot open or decode."""


@dataclass
class Survey:
    """What was met while image files were read: the brightest value, pages left out, files that cannot be read."""

    brightest: float = 0.0
    """The greatest value of any file, in its own numbers."""
    scale: float = 1.0
    """What makes that value a pixel in [0, 1]."""
    paged: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def see(self, brightest: float, scale: float) -> None:
        """Record the greatest value of a file."""
        if brightest * scale > self.brightest * self.scale:
            self.brightest, self.scale = brightest, scale

    def notices(self, name: str) -> list[str]:
        """Return what a user of the images must know, a line for each thing."""
        lines = [dim_notice(self.brightest, self.scale, name)]
        if self.paged:
            lines.append(f"{name}: only the first page or frame is used of {some_of(self.paged)}")
        if self.unreadable:
            lines.append(f"{name}: skipped {some_of(self.unreadable)}, which cannot be read")
        return [line for line in lines if line]


def some_of(names: Sequence[str]) -> str:
    """Return the first of some names, and how many there are."""
    return names[0] if len(names) == 1 else f"{len(names):,} files ({names[0]}, …)"


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


def is_class_folder(place: Path) -> bool:
    """Return whether a folder may hold images: neither a hidden one nor one that a system leaves behind."""
    return place.is_dir() and not place.name.startswith(".") and place.name not in SYSTEM_FOLDERS


def files_below(place: Path, skipped: Counter[str]) -> list[Path]:
    """Return the image files anywhere below a folder, sorted, also through links; counts what is `skipped`, and why."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for top, folders, names in os.walk(place, followlinks=True):
        here = Path(top)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            # A link that leads back to a folder above it.
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
                skipped[kind_of(file)] += 1
    return sorted(found)


def kind_of(file: Path) -> str:
    """Return the name under which a file that is not an image is counted: its ending, or hidden."""
    if file.name.startswith("."):
        return "hidden file"
    return f"{file.suffix.lower()[:12]} file" if file.suffix else "extensionless file"


def skipped_line(place: Path, skipped: Counter[str]) -> str:
    """Return the line that says what a folder holds besides its images, empty for nothing but hidden files."""
    counts = {what: number for what, number in skipped.items() if number}
    if set(counts) <= {"hidden file"}:
        return ""
    texts = [f"{number:,} {what}{'s' if number > 1 else ''}" for what, number in sorted(counts.items())]
    return f"{place.name}: skipped {', '.join(texts)}"


def image_files(place: Path, skipped: Counter[str] | None = None) -> list[Path]:
    """Return the file itself, or a folder's image files by name; raises DataError for none.

    Sub-folders are not searched. What the folder holds besides is counted in `skipped`.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"images: {place} is not there")
    skipped = Counter() if skipped is None else skipped
    files = []
    for file in sorted(place.iterdir()):
        if is_image(file):
            files.append(file)
        else:
            skipped["folder" if file.is_dir() else kind_of(file)] += 1
    if not files:
        raise DataError(f"images: {place} holds no image file (its sub-folders are not searched)")
    return files


def read_all(files: Sequence[Path], read: Callable[[Path], T], survey: Survey) -> Iterator[tuple[int, T]]:
    """Yield what `read` makes of each file that can be read, with its position; the others go into the survey.

    Raises UnreadableImage, for the first file, if none can be read.
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


def picture(
    file: Path, shape: tuple[int, int, int], white: float | None = None, survey: Survey | None = None
) -> Tensor:
    """Return one image file as [C, H, W] in [0, 1].

    `white` is the value of a white pixel, by default that of the file's type: 255, 65535 for 16 bits, 1 for floats.
    Raises UnreadableImage, naming the file, if it cannot be read, and DataError for values beyond white.
    """
    channels, *size = shape
    survey = Survey() if survey is None else survey
    try:
        with warnings.catch_warnings():
            # A large photograph is none; what is twice as large is refused.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=formats()) as opened:
                if getattr(opened, "n_frames", 1) > 1:
                    survey.paged.append(file.name)
                pixels = intensities(ImageOps.exif_transpose(opened), channels, white, survey)
    except OutOfRange as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from error
    except Exception as error:
        # Pillow's readers raise nearly anything of damaged bytes: SyntaxError, TypeError, struct.error.
        raise UnreadableImage(f"{file} cannot be read as an image: {error}") from error
    if list(pixels.shape[1:]) != size:
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True)[0]
    return pixels.clamp(0, 1)


class OutOfRange(ValueError):
    """Values of an image that are not between black and white."""


def intensities(image: Image.Image, channels: int, white: float | None, survey: Survey) -> Tensor:
    """Return an image's pixels [channels, H, W] in [0, 1]; raises OutOfRange for values outside."""
    if image.mode == "F" or image.mode.startswith("I"):
        # Not "LA" or "RGBA" of 16 bits, which Pillow has made 8 bits by now.
        return high_depth(image, white, survey).expand(channels, image.height, image.width)
    full = 255 if white is None or image.mode in PALETTES else white
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # On white, whichever value that is in this file.
        ground = min(round(full), 255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, (ground,) * 3 + (255,)), image.convert("RGBA"))
    values = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    greatest = float(values.max())
    survey.see(greatest, 1 / full)
    if greatest > full:
        raise OutOfRange(f"its values go up to {greatest:g}, more than dataset.scale={full:g}")
    return torch.from_numpy(values / np.float32(full)).view(*values.shape[:2], channels).permute(2, 0, 1)


def high_depth(image: Image.Image, white: float | None, survey: Survey) -> Tensor:
    """Return the pixels [H, W] in [0, 1] of a grey image of 16 bits, 32 bits or floats, transparent ones white."""
    # Pillow's own conversion would cut these at 255; it reads 16-bit files as I;16 or as I.
    values = np.asarray(image, dtype=np.float32)
    full = white or (1 if image.mode == "F" else 65535)
    least, greatest = float(values.min()), float(values.max())
    if not (least >= 0 and greatest <= full):
        kind = f"in [0, {full:g}]" if white else "16-bit or floats in [0, 1]"
        raise OutOfRange(
            f"its values are not {kind}, but go from {least:.9g} to {greatest:.9g}: {white_hint(greatest)}"
        )
    survey.see(greatest, 1 / full)
    if isinstance(clear := image.info.get("transparency"), int):
        values = np.where(values == clear, np.float32(full), values)
    return torch.from_numpy(values / np.float32(full))
