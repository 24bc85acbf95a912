"""Read images and labels from .npy and .npz files: which array is what, and whether its numbers are pixels."""

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
from aectl.data.memmap import PIECE, Mapped, can_stay
from aectl.data.pixel_range import DIM, check_white, dim_notice, white_hint
from aectl.system.machine import memory_bytes

log = logging.getLogger("aectl")

MOST_CLASSES = 2**31
LARGEST, MOST = 2**31, 100
"""Bytes that any .npz may hold, and how many times its own size a larger one may; images shrink to a tenth or so."""

SEEN_BYTES = 2**26
"""Of a file that may be larger than memory, how much is looked at for its brightest pixel."""
ALL = "all"
"""The part of a file that has no splits of its own."""
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
"""Words in the names of arrays: of images, of labels, and of the splits they belong to."""


class Images(NamedTuple):
    """Images of one split; `pixels * scale` lies in [0, 1], and labels are -1 where there are none."""

    pixels: Tensor | Mapped  # [N, C, H, W], uint8 or float32
    labels: Tensor  # [N], int64
    scale: float


class Role(NamedTuple):
    """What an array of a .npz is: the split it belongs to, and whether it has images or labels."""

    part: str
    what: str

    def __str__(self) -> str:
        return self.what if self.part == ALL else f"{self.part}_{self.what}"


ROLES = tuple(Role(part, what) for part in (ALL, "train", "valid", "test") for what in ("images", "labels"))


def read(file: Path, keys: Mapping[str, str] | None = None, white: float | None = None) -> dict[str, Images]:
    """Return a file's images and labels by split: "all" alone, or "train" with "valid" and "test" if it has them.

    `keys` says which array is what (`images`, `labels`, `train_images`, `test_labels`, …) where the names do not, and
    `white` which value a white pixel has (None: 255 for uint8, 1 for floats). `arrays` in `datasets.py` describes the
    formats; raises DataError for anything else.
    """
    if not file.is_file():
        raise DataError(f"{file} is not there, or is no file")
    check_white(white)
    try:
        found = content_of(file)
    except DataError:
        raise
    except Exception as error:
        # NumPy, zipfile and Python's parser of headers raise nearly anything of damaged bytes: MemoryError, TokenError.
        raise DataError(f"{file} is no .npy or .npz file of numbers, or is damaged (pickles are not loaded)") from error
    named = {Role(ALL, "images"): next(iter(found))} if is_npy(file) else roles_of(found, file, keys)
    parts = {}
    for part in dict.fromkeys(role.part for role in named):
        images, labels = (named.get(Role(part, what)) for what in ("images", "labels"))
        if images is None:
            raise DataError(f"{file} has labels '{labels}' and no images for them: name them by dataset.keys=")
        pixels, scale = check_images(found[images], file, white)
        known = None if labels is None else found[labels]
        parts[part] = Images(pixels, check_labels(known, len(pixels), file), scale)
    check_alike(parts, file)
    notice = dim_notice(brightest(parts), next(iter(parts.values())).scale, file.name)
    if notice:
        log.warning("%s", notice)
    return parts


def is_npy(file: Path) -> bool:
    """Return whether a file begins as a .npy does."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX


def roles_of(found: Mapping[str, np.ndarray], file: Path, keys: Mapping[str, str] | None) -> dict[Role, str]:
    """Return which array of a .npz has which role, and log what is ignored; raises DataError where names are ambiguous.

    Names are understood in any order and case: x and y, images and labels, data and target, arr_0 and arr_1, each also
    with a split: x_train, test_labels, valY. Without any such name the one array that could be images has them.
    """
    roles = chosen(found, file, keys) if keys else guessed(found, file)
    splits = {role.part for role in roles if role.what == "images"}
    if ALL in splits and len(splits) > 1:
        # x and x_test: x is to train on.
        roles = {Role("train", role.what) if role.part == ALL else role: key for role, key in roles.items()}
    elif ALL not in splits:
        # Next to x_train and x_test an array named "labels" has the names of classes, or something else.
        roles = {role: key for role, key in roles.items() if role.part != ALL}
        if "train" not in splits:
            raise DataError(f"{file} has {listed(roles.values())} and no training images: name them by dataset.keys=")
    if ignored := [key for key in found if key not in roles.values()]:
        hint = labels_hint(found, roles, ignored)
        log.info("%s: reading %s, ignoring %s%s", file.name, listed(roles.values()), listed(ignored), hint)
    return roles


def labels_hint(found: Mapping[str, np.ndarray], roles: Mapping[Role, str], ignored: Iterable[str]) -> str:
    """Return how to name the labels, where none were found and an ignored array has an integer for each image."""
    for role, images in roles.items():
        labels = Role(role.part, "labels")
        if role.what != "images" or labels in roles:
            continue
        count = len(found[images])
        for key in ignored:
            if found[key].dtype.kind in "iu" and found[key].shape in ((count,), (count, 1)):
                names = f"{role}: {images}, {labels}: {key}"
                return f"; if '{key}' has the labels, type 'dataset.keys={{{names}}}'"
    return ""


def guessed(found: Mapping[str, np.ndarray], file: Path) -> dict[Role, str]:
    """Return the roles that the names of arrays tell; raises DataError if two arrays have the same."""
    roles: dict[Role, str] = {}
    for key, array in found.items():
        role = role_of(key, array)
        if role is None:
            continue
        if role in roles:
            raise DataError(f"{file}: '{roles[role]}' or '{key}'? {suggestion(role, key)}")
        roles[role] = key
    whole, train = (roles.get(Role(part, "images")) for part in (ALL, "train"))
    if whole and train:
        raise DataError(f"{file}: '{whole}' or '{train}'? {suggestion(Role('train', 'images'), train)}")
    if not any(role.what == "images" for role in roles):
        possible = [key for key, array in found.items() if array.ndim in (3, 4) and key not in roles.values()]
        if len(possible) > 1:
            raise DataError(f"{file} has {listed(possible)}: {suggestion(Role(ALL, 'images'), possible[0])}")
        if not possible:
            shapes = ", ".join(f"'{key}' {array.shape}" for key, array in found.items()) or "no array"
            raise DataError(f"{file}: images must be [N, H, W], [N, C, H, W] or [N, H, W, C], not {shapes}")
        roles[Role(ALL, "images")] = possible[0]
    return roles


def role_of(key: str, array: np.ndarray) -> Role | None:
    """Return what the name of an array says it is, None if it says nothing."""
    words = [
        word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[XY]\b|[A-Z][a-z])", "_", key).lower()) if word
    ]
    if len(words) == 1:
        # xtrain, trainx, ytest: a split and a letter.
        glued = re.fullmatch(rf"([xy])({'|'.join(PARTS)})|({'|'.join(PARTS)})([xy])", words[0])
        words = [word for word in glued.groups() if word] if glued else words
    parts = [PARTS[word] for word in words if word in PARTS]
    rest = "".join(word for word in words if word not in PARTS)
    if len(parts) > 1 or (not parts and not rest):
        return None
    part = parts[0] if parts else ALL
    if rest in LABELS:
        return Role(part, "labels")
    # A name such as "train" alone is of the images; a list of indices of that name is not.
    return Role(part, "images") if rest in IMAGES and (rest or array.ndim in (3, 4)) else None


def chosen(found: Mapping[str, np.ndarray], file: Path, keys: Mapping[str, str]) -> dict[Role, str]:
    """Return the roles that `dataset.keys` gives, and labels of those images that are found by their names.

    Raises DataError for a role or an array that does not exist.
    """
    known = {str(role): role for role in ROLES}
    if not isinstance(keys, Mapping):
        raise DataError(f"dataset.keys must say which array is what, as in {{images: a, labels: b}}, not {keys!r}")
    for name, key in keys.items():
        if name not in known:
            raise DataError(f"dataset.keys: no '{name}', choose from {', '.join(known)}")
        if key not in found:
            raise DataError(f"dataset.keys.{name}: no array '{key}' in {file}, which has {listed(found)}")
    roles = {known[name]: key for name, key in keys.items()}
    for key, array in found.items():
        role = role_of(key, array)
        if role and role.what == "labels" and Role(role.part, "images") in roles and key not in roles.values():
            roles.setdefault(role, key)
    return roles


def suggestion(role: Role, key: str) -> str:
    """Return the words to type to choose an array."""
    return f"choose one, as in 'dataset.keys={{{role}: {key}}}'"


def listed(keys: Iterable[str]) -> str:
    """Return names in quotes, the first ten of them."""
    names = [f"'{key}'" for key in keys]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def content_of(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz by name, or that of a .npy, mapped into memory, as `x`."""
    # NumPy warns of sizes whose product is no 64-bit number, and goes on with another one.
    with file.open("rb") as stream, np.errstate(over="raise"):
        if is_npy(file):
            return {"x": np.load(file, mmap_mode="r", allow_pickle=False)}
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


def check_labels(labels: np.ndarray | None, count: int, file: Path) -> Tensor:
    """Return labels [N], -1 where there are none, of integers [N] or [N, 1]; raises DataError for others."""
    if labels is None:
        return torch.full((count,), -1)
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or not in_range(labels):
        raise DataError(
            f"labels in {file} must be integers from -1, one for each of {count:,} images, "
            f"not {labels.dtype} {labels.shape}"
        )
    return torch.from_numpy(labels.astype(np.int64, copy=False))


def in_range(labels: np.ndarray) -> bool:
    """Return whether labels are classes, or -1 for none."""
    return not ((labels < -1).any() or (labels >= MOST_CLASSES).any())


def check_images(images: np.ndarray, file: Path, white: float | None = None) -> tuple[Tensor | Mapped, float]:
    """Return images as [N, C, H, W], uint8 or float32, and the scale that makes them pixels; raises DataError."""
    shape, stays = images.shape, can_stay(images)
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or not images.size or images.shape[1] not in (1, 3):
        raise DataError(f"images in {file} must be [N, H, W], [N, C, H, W] or [N, H, W, C] with C 1 or 3, not {shape}")
    kind = images.dtype.kind
    if images.dtype != np.uint8 and kind != "f" and not (kind in "iu" and white):
        hint = f": {white_hint(extremes(images)[1])}" if kind in "iu" else ""
        raise DataError(f"images in {file} must be uint8, or floats in [0, 1], not {images.dtype}{hint}")
    if images.dtype != np.uint8 or white:
        high = white or 1
        least, greatest = extremes(images)
        if not (least >= 0 and greatest <= high):
            span = f"[0, {high:g}]"
            raise DataError(
                f"{'floats' if kind == 'f' and not white else 'pixels'} in {file} must lie in {span}, "
                f"but go from {least:.9g} to {greatest:.9g}: {white_hint(greatest)}"
            )
    scale = 1 / (white or (255 if images.dtype == np.uint8 else 1))
    if stays:
        return Mapped(images), scale
    return torch.from_numpy(np.array(images, np.uint8 if images.dtype == np.uint8 else np.float32, order="C")), scale


def check_alike(parts: Mapping[str, Images], file: Path) -> None:
    """Raise DataError if the splits of a file have images of different shapes or types."""
    found = {name: (tuple(images.pixels.shape[1:]), images.pixels.dtype) for name, images in parts.items()}
    if len(set(found.values())) > 1:
        texts = ", ".join(
            f"{name} {shape} {str(dtype).removeprefix('torch.')}" for name, (shape, dtype) in found.items()
        )
        raise DataError(f"the splits in {file} must have images of one shape and type, not {texts}")


def brightest(parts: Mapping[str, Images]) -> float:
    """Return the greatest value of all images before it is scaled, or the first one found that is not dim.

    Of images that stay in their file it is that of some, evenly spaced: the others are not read for it.
    """
    found = 0.0
    for images in parts.values():
        for piece in pieces_of(images.pixels):
            found = max(found, float(piece.max()))
            if found * images.scale >= DIM:
                return found
    return found


def pieces_of(pixels: Tensor | Mapped) -> Iterator[Tensor]:
    """Yield images in pieces: all of a tensor, at most SEEN_BYTES of those that stay in a file."""
    if isinstance(pixels, Tensor):
        yield from pixels.split(PIECE)
        return
    most = max(SEEN_BYTES * len(pixels) // pixels.nbytes, 1)
    for position in torch.arange(0, len(pixels), max(len(pixels) // most, 1)):
        yield pixels.index_select(0, position[None])


def extremes(images: np.ndarray) -> tuple[float, float]:
    """Return the least and the greatest of all pixels, NaN if one of them is: a file is read once, piece by piece."""
    pieces = [(part.min(), part.max()) for part in (images[i : i + PIECE] for i in range(0, len(images), PIECE))]
    low, high = np.asarray(pieces).T
    return float(low.min()), float(high.max())
