"""The pictures that a run drew of its model after each epoch of training, read back from TensorBoard's files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aectl.data.thumbnails import thumbnail_shape
from aectl.models.base import Model, Reconstructs, Samples
from aectl.sampling.kind import Kind
from aectl.sampling.request import Arrays, Impossible, Request, has

FRAMES = 240
"""Epochs of a long run that are shown, evenly spaced: a GIF of ten seconds."""
LARGEST, MOST = 2**24, 2**26
"""Pixels of a sheet, some four times those of any that TensorBoard is given, and of all that are shown.

A small PNG may unpack to gigabytes; of sheets that are large, fewer are shown.
"""


def training(model: Model, request: Request) -> Arrays:
    """Read what the model drew after each epoch: `images` [epochs, rows, columns, C, H, W] and `epochs` [epochs].

    Samples, of the same random numbers at every epoch, or if the model draws none, reconstructions of the same images
    `x` [columns, C, H, W], which it perhaps saw as `noisy`. Raises Impossible if the run's event files are gone or
    have no such pictures.
    """
    name = tag(model)
    found = sheets(request.folder, name) if request.folder else {}
    if not found:
        raise Impossible(f"the run's event files have no pictures called '{name}'")
    images = torch.stack([cut(sheet, request.source.shape) for sheet in found.values()])
    # Above the reconstructions stand the images, and what noise made of them if the model has any.
    given = {} if has(model, Samples) else dict(zip(("x", "noisy"), images[-1, :-1], strict=False))
    return {**given, "images": images[:, len(given) :], "epochs": torch.tensor(list(found))}


def tag(model: Model) -> str:
    """Return what the pictures of a model's training are called in the event files."""
    return "samples" if has(model, Samples) else "reconstruction"


def sheets(folder: Path, tag: str) -> dict[int, np.ndarray]:
    """Return the pictures [H′, W′, 3] of one name in a run's event files by epoch, in order.

    Each start of a run wrote a file of its own. A resumed one says from which epoch on all that was written before no
    longer counts; an epoch that was written twice counts as it was the last time.
    """
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.compat.proto.event_pb2 import SessionLog

    found: dict[int, bytes] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = {epoch: encoded for epoch, encoded in found.items() if epoch < event.step}
            for value in event.summary.value:
                if value.tag == tag and value.HasField("image"):
                    found[event.step] = value.image.encoded_image_string
    epochs = sorted(found)
    frames = min(FRAMES, MOST // max([MOST // FRAMES, *(size(encoded) for encoded in found.values())]))
    # Evenly spaced, with the first and the last.
    chosen = {epochs[round(i * (len(epochs) - 1) / max(frames - 1, 1))] for i in range(frames)} if epochs else set()
    return {epoch: pixels(found[epoch]) for epoch in sorted(chosen)}


def size(encoded: bytes) -> int:
    """Return how many pixels a picture of an event file has; raises Impossible as `pixels` does."""
    with opened(encoded) as picture:
        return picture.width * picture.height


def pixels(encoded: bytes) -> np.ndarray:
    """Return a picture [H′, W′, 3] of an event file; raises Impossible unless it is a PNG, which TensorBoard writes."""
    with opened(encoded) as picture:
        return np.asarray(picture.convert("RGB"))


@contextmanager
def opened(encoded: bytes) -> Iterator[Image.Image]:
    """Open a picture of an event file; raises Impossible if it is too large, or here or within for a damaged one."""
    try:
        with Image.open(io.BytesIO(encoded), formats=["PNG"]) as picture:
            if picture.width * picture.height > LARGEST:
                raise Impossible(f"a picture in the run's event files has {picture.width} × {picture.height} pixels")
            yield picture
    except Impossible:
        raise
    except Exception as error:
        # Pillow raises nearly anything of damaged bytes.
        raise Impossible(f"a picture in the run's event files is damaged ({type(error).__name__})") from error


def cut(sheet: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    """Return the images [rows, columns, C, H, W] in [0, 1] that a sheet [H′, W′, 3] was made of.

    The sheet has a line of one pixel around each image and is enlarged by a whole number, the largest for which that
    can be so. Large images were shrunk to `thumbnail_shape`. Raises Impossible if it was made of other images.
    """
    for channels, height, width in dict.fromkeys((thumbnail_shape(shape), tuple(shape))):
        if (found := tiles_of(sheet, channels, height, width)) is not None:
            return found
    raise Impossible(f"the run's event files have pictures of other images than {shape}")


def tiles_of(sheet: np.ndarray, channels: int, height: int, width: int) -> Tensor | None:
    """Return the images [rows, columns, C, H, W] in [0, 1] of a sheet, None if it is not made of such images."""
    for factor in range(math.gcd(*sheet.shape[:2]), 0, -1):
        small = sheet[::factor, ::factor]
        rows, columns = (small.shape[0] - 1) // (height + 1), (small.shape[1] - 1) // (width + 1)
        fits = small.shape[:2] == (rows * (height + 1) + 1, columns * (width + 1) + 1)
        if rows and columns and fits and np.array_equal(small.repeat(factor, 0).repeat(factor, 1), sheet):
            tiles = small[1:, 1:, :channels].reshape(rows, height + 1, columns, width + 1, channels)[:, :-1, :, :-1]
            return torch.from_numpy(tiles.transpose(0, 2, 4, 1, 3).astype(np.float32) / 255)
    return None


def training_title(model: Model, request: Request) -> str:
    """Return the title of pictures over training: what stays the same while the model changes."""
    what = "Samples of the same random numbers" if has(model, Samples) else "Reconstructions of the same images"
    return f"{what} over training"


KINDS = (
    Kind(
        "training",
        "after each epoch of training: a strip and a GIF",
        can=lambda model: has(model, Samples) or has(model, Reconstructs),
        make=training,
        verb="show its training",
        lacks="it neither samples nor reconstructs",
        title=training_title,
        layout="strip",
        order=80,
    ),
)
