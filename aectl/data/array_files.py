"""Read images and labels from .npy and .npz files."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.lib.format import MAGIC_PREFIX
from torch import Tensor

from aectl.data.downloads import DataError
from aectl.data.memmap import PIECE_IMAGES, MappedImages, can_map
from aectl.data.pixel_range import DIM_SHARE, check_white, describe_dim_pixels, suggest_white
from aectl.system.machine import memory_bytes

log = logging.getLogger("aectl")

MAX_CLASSES = 2**31
MAX_UNPACKED_BYTES, MAX_COMPRESSION = 2**31, 100
"""A .npz is rejected if it unpacks to more than this many bytes and to more than this many times its own size. Images
typically compress to about a tenth."""

SCANNED_BYTES = 2**26
"""Bytes of a memory-mapped file that are scanned for the maximum pixel value."""
ALL = "all"
"""The split name of a file without splits."""
IMAGES = ("x", "image", "images", "img", "imgs", "data", "pixels", "samples", "arr0", "")
LABELS = ("y", "label", "labels", "target", "targets", "class", "classes", "digit", "arr1")
PARTS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
}
"""Words that are recognised in array names, for images, labels and splits."""


class Images(NamedTuple):
    """Images of one split. `pixels * scale` is in [0, 1]; missing labels are -1."""

    pixels: Tensor | MappedImages  # [N, C, H, W], uint8 or float32
    labels: Tensor  # [N], int64
    scale: float


class Role(NamedTuple):
    """Role of an array in a .npz: its split, and "images" or "labels"."""

    part: str
    what: str

    def __str__(self) -> str:
        return self.what if self.part == ALL else f"{self.part}_{self.what}"


ROLES = tuple(Role(part, what) for part in (ALL, "train", "valid", "test") for what in ("images", "labels"))


def read_array_file(file: Path, keys: Mapping[str, str] | None = None, white: float | None = None) -> dict[str, Images]:
    """Return the images and labels of a file by split: only "all", or "train" and, if present, "valid" and "test".

    `keys` maps roles (`images`, `labels`, `train_images`, `test_labels`, …) to array names, if these cannot be
    recognised. `white` is the value of a white pixel (None: 255 for uint8, 1 for floats). `datasets.arrays` describes
    the formats. Raises DataError for any other file.
    """
    if not file.is_file():
        raise DataError(f"{file} does not exist or is not a file")
    check_white(white)
    try:
        found = load_arrays(file)
    except DataError:
        raise
    except Exception as error:
        # NumPy and zipfile raise almost any exception for damaged files, including MemoryError and TokenError.
        raise DataError(
            f"{file} is not a .npy or .npz file of numbers, or is damaged (pickles are not loaded)"
        ) from error
    named = {Role(ALL, "images"): next(iter(found))} if is_npy(file) else find_roles(found, file, keys)
    parts = {}
    for part in dict.fromkeys(role.part for role in named):
        images, labels = (named.get(Role(part, what)) for what in ("images", "labels"))
        if images is None:
            raise DataError(f"{file} has labels '{labels}' but no images for them: name the images by dataset.keys=")
        pixels, scale = convert_images(found[images], file, white)
        known = None if labels is None else found[labels]
        parts[part] = Images(pixels, convert_labels(known, len(pixels), file), scale)
    check_same_format(parts, file)
    notice = describe_dim_pixels(find_maximum(parts), next(iter(parts.values())).scale, file.name)
    if notice:
        log.warning("%s", notice)
    return parts


def is_npy(file: Path) -> bool:
    """Return whether a file starts with the magic bytes of the .npy format."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX


def find_roles(found: Mapping[str, np.ndarray], file: Path, keys: Mapping[str, str] | None) -> dict[Role, str]:
    """Return the name of the array for each role, and log the arrays that are ignored.

    Recognised names are x and y, images and labels, data and target, arr_0 and arr_1, in any case, each optionally with
    a split: x_train, test_labels, valY. If no name is recognised, the only array with the shape of images is used.
    Raises DataError for ambiguous names.
    """
    roles = choose_roles(found, file, keys) if keys else guess_roles(found, file)
    splits = {role.part for role in roles if role.what == "images"}
    if ALL in splits and len(splits) > 1:
        # With x and x_test, x holds the training images.
        roles = {Role("train", role.what) if role.part == ALL else role: key for role, key in roles.items()}
    elif ALL not in splits:
        # With x_train and x_test, an array called "labels" holds something else, e.g. the class names.
        roles = {role: key for role, key in roles.items() if role.part != ALL}
        if "train" not in splits:
            raise DataError(
                f"{file} has {quote_names(roles.values())} but no training images: name them by dataset.keys="
            )
    if ignored := [key for key in found if key not in roles.values()]:
        hint = suggest_labels(found, roles, ignored)
        log.info("%s: reading %s, ignoring %s%s", file.name, quote_names(roles.values()), quote_names(ignored), hint)
    return roles


def suggest_labels(found: Mapping[str, np.ndarray], roles: Mapping[Role, str], ignored: Iterable[str]) -> str:
    """Return a hint how to select labels, if none were found but an ignored array could be labels."""
    for role, images in roles.items():
        labels = Role(role.part, "labels")
        if role.what != "images" or labels in roles:
            continue
        count = len(found[images])
        for key in ignored:
            if found[key].dtype.kind in "iu" and found[key].shape in ((count,), (count, 1)):
                names = f"{role}: {images}, {labels}: {key}"
                return f"; if '{key}' holds the labels, set 'dataset.keys={{{names}}}'"
    return ""


def guess_roles(found: Mapping[str, np.ndarray], file: Path) -> dict[Role, str]:
    """Return the roles recognised from array names; raises DataError if two arrays have the same role."""
    roles: dict[Role, str] = {}
    for key, array in found.items():
        role = guess_role(key, array)
        if role is None:
            continue
        if role in roles:
            raise DataError(f"{file}: '{roles[role]}' or '{key}'? {suggest_key(role, key)}")
        roles[role] = key
    whole, train = (roles.get(Role(part, "images")) for part in (ALL, "train"))
    if whole and train:
        raise DataError(f"{file}: '{whole}' or '{train}'? {suggest_key(Role('train', 'images'), train)}")
    if not any(role.what == "images" for role in roles):
        possible = [key for key, array in found.items() if array.ndim in (3, 4) and key not in roles.values()]
        if len(possible) > 1:
            raise DataError(f"{file} has {quote_names(possible)}: {suggest_key(Role(ALL, 'images'), possible[0])}")
        if not possible:
            shapes = ", ".join(f"'{key}' {array.shape}" for key, array in found.items()) or "no array"
            raise DataError(f"{file}: images must be [N, H, W], [N, C, H, W] or [N, H, W, C], not {shapes}")
        roles[Role(ALL, "images")] = possible[0]
    return roles


def guess_role(key: str, array: np.ndarray) -> Role | None:
    """Return the role recognised from the name of an array, or None."""
    words = [
        word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[XY]\b|[A-Z][a-z])", "_", key).lower()) if word
    ]
    if len(words) == 1:
        # A split and a letter in one word: xtrain, trainx, ytest.
        glued = re.fullmatch(rf"([xy])({'|'.join(PARTS)})|({'|'.join(PARTS)})([xy])", words[0])
        words = [word for word in glued.groups() if word] if glued else words
    parts = [PARTS[word] for word in words if word in PARTS]
    rest = "".join(word for word in words if word not in PARTS)
    if len(parts) > 1 or (not parts and not rest):
        return None
    part = parts[0] if parts else ALL
    if rest in LABELS:
        return Role(part, "labels")
    # An array called just "train" holds images if it has their shape; otherwise it may be a list of indices.
    return Role(part, "images") if rest in IMAGES and (rest or array.ndim in (3, 4)) else None


def choose_roles(found: Mapping[str, np.ndarray], file: Path, keys: Mapping[str, str]) -> dict[Role, str]:
    """Return the roles set by `dataset.keys`, and matching labels recognised from their names.

    Raises DataError for an unknown role or array.
    """
    known = {str(role): role for role in ROLES}
    if not isinstance(keys, Mapping):
        raise DataError(f"dataset.keys must map roles to arrays, as in {{images: a, labels: b}}, not {keys!r}")
    for name, key in keys.items():
        if name not in known:
            raise DataError(f"dataset.keys: no '{name}', choose from {', '.join(known)}")
        if key not in found:
            raise DataError(f"dataset.keys.{name}: no array '{key}' in {file}, which has {quote_names(found)}")
    roles = {known[name]: key for name, key in keys.items()}
    for key, array in found.items():
        role = guess_role(key, array)
        if role and role.what == "labels" and Role(role.part, "images") in roles and key not in roles.values():
            roles.setdefault(role, key)
    return roles


def suggest_key(role: Role, key: str) -> str:
    """Return the override that selects an array."""
    return f"choose one, as in 'dataset.keys={{{role}: {key}}}'"


def quote_names(keys: Iterable[str]) -> str:
    """Return the first ten names in quotes."""
    names = [f"'{key}'" for key in keys]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz by name; the array of a .npy is memory-mapped and called `x`."""
    # For sizes whose product overflows 64 bits NumPy only warns and uses a wrong number.
    with file.open("rb") as stream, np.errstate(over="raise"):
        if is_npy(file):
            return {"x": np.load(file, mmap_mode="r", allow_pickle=False)}
        check_unpacked_size(file, stream)
        return dict(np.load(stream, allow_pickle=False))


def check_unpacked_size(file: Path, stream: IO[bytes]) -> None:
    """Raise DataError if a .npz unpacks to more than the memory, or to far more than the size of the file."""
    with zipfile.ZipFile(stream) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > memory_bytes():
        raise DataError(f"{file} unpacks to {size:,} bytes, but this machine has {memory_bytes():,.0f} bytes of memory")
    if size > max(MAX_UNPACKED_BYTES, MAX_COMPRESSION * file.stat().st_size):
        raise DataError(f"{file} would unpack to {size:,} bytes, far more than its own size: save it as .npy instead")
    stream.seek(0)


def convert_labels(labels: np.ndarray | None, count: int, file: Path) -> Tensor:
    """Return labels as int64 [N], all -1 for None; raises DataError unless they are integers [N] or [N, 1]."""
    if labels is None:
        return torch.full((count,), -1)
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or not are_classes(labels):
        raise DataError(
            f"labels in {file} must be integers ≥ -1, one for each of {count:,} images, "
            f"not {labels.dtype} {labels.shape}"
        )
    return torch.from_numpy(labels.astype(np.int64, copy=False))


def are_classes(labels: np.ndarray) -> bool:
    """Return whether all labels lie in [-1, MAX_CLASSES)."""
    return not ((labels < -1).any() or (labels >= MAX_CLASSES).any())


def convert_images(images: np.ndarray, file: Path, white: float | None = None) -> tuple[Tensor | MappedImages, float]:
    """Return images [N, C, H, W], uint8 or float32, and the factor that scales them to [0, 1].

    Raises DataError for other shapes, types or values.
    """
    shape, stays = images.shape, can_map(images)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or not images.size or images.shape[1] not in (1, 3):
        raise DataError(f"images in {file} must be [N, H, W], [N, C, H, W] or [N, H, W, C] with C 1 or 3, not {shape}")
    kind = images.dtype.kind
    if images.dtype != np.uint8 and kind != "f" and not (kind in "iu" and white):
        hint = f": {suggest_white(extremes(images)[1])}" if kind in "iu" else ""
        raise DataError(f"images in {file} must be uint8, or floats in [0, 1], not {images.dtype}{hint}")
    if images.dtype != np.uint8 or white:
        high = white or 1
        least, greatest = extremes(images)
        if not (least >= 0 and greatest <= high):
            span = f"[0, {high:g}]"
            raise DataError(
                f"{'floats' if kind == 'f' and not white else 'pixels'} in {file} must lie in {span}, "
                f"but go from {least:.9g} to {greatest:.9g}: {suggest_white(greatest)}"
            )
    scale = 1 / (white or (255 if images.dtype == np.uint8 else 1))
    if stays:
        return MappedImages(images), scale
    return torch.from_numpy(np.array(images, np.uint8 if images.dtype == np.uint8 else np.float32, order="C")), scale


def check_same_format(parts: Mapping[str, Images], file: Path) -> None:
    """Raise DataError if the images of two splits differ in shape or type."""
    found = {name: (tuple(images.pixels.shape[1:]), images.pixels.dtype) for name, images in parts.items()}
    if len(set(found.values())) > 1:
        texts = ", ".join(
            f"{name} {shape} {str(dtype).removeprefix('torch.')}" for name, (shape, dtype) in found.items()
        )
        raise DataError(f"the splits in {file} must have images of one shape and type, not {texts}")


def find_maximum(parts: Mapping[str, Images]) -> float:
    """Return the maximum value of all images before scaling, or the first one found that is not dim.

    Of memory-mapped images, only an evenly spaced part is read.
    """
    found = 0.0
    for images in parts.values():
        for piece in iterate_pieces(images.pixels):
            found = max(found, float(piece.max()))
            if found * images.scale >= DIM_SHARE:
                return found
    return found


def iterate_pieces(pixels: Tensor | MappedImages) -> Iterator[Tensor]:
    """Yield images in pieces: all images of a tensor, at most SCANNED_BYTES of memory-mapped ones."""
    if isinstance(pixels, Tensor):
        yield from pixels.split(PIECE_IMAGES)
        return
    most = max(SCANNED_BYTES * len(pixels) // pixels.nbytes, 1)
    for position in torch.arange(0, len(pixels), max(len(pixels) // most, 1)):
        yield pixels.index_select(0, position[None])


def extremes(images: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest of all pixels, NaN if one of them is: a file is read once, piece by piece."""
    pieces = [
        (part.min(), part.max()) for part in (images[i : i + PIECE_IMAGES] for i in range(0, len(images), PIECE_IMAGES))
    ]
    low, high = np.asarray(pieces).T
    return float(low.min()), float(high.max())
