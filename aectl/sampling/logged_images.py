"""Read the images that a run logged after each epoch from its TensorBoard event files."""

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

MAX_EPOCHS = 240
"""Largest number of epochs shown, evenly spaced, so that a GIF takes ten seconds."""
MAX_SHEET_PIXELS, MAX_TOTAL_PIXELS = 2**24, 2**26
"""Limits on the pixels of one sheet, about four times the largest that is logged, and of all sheets together.

A small PNG may unpack to gigabytes. If sheets are large, fewer epochs are shown.
"""


def load_training_images(model: Model, request: Request) -> Arrays:
    """Return `images` [epochs, rows, columns, C, H, W] that were logged after each of `epochs` [epochs].

    They are samples from the same random numbers or, if the model cannot sample, reconstructions of the same images `x`
    [columns, C, H, W], corrupted to `noisy` if the model has noise. Raises Impossible if the event files of the run are
    missing or have no such images.
    """
    name = image_tag(model)
    found = read_sheets(request.folder, name) if request.folder else {}
    if not found:
        raise Impossible(f"the run's event files have no images called '{name}'")
    images = torch.stack([split_sheet(sheet, request.source.shape) for sheet in found.values()])
    # The rows above the reconstructions are the images and, if the model has noise, the corrupted images.
    given = {} if has(model, Samples) else dict(zip(("x", "noisy"), images[-1, :-1], strict=False))
    return {**given, "images": images[:, len(given) :], "epochs": torch.tensor(list(found))}


def image_tag(model: Model) -> str:
    """Return the tag of a model's images in the event files."""
    return "samples" if has(model, Samples) else "reconstruction"


def read_sheets(folder: Path, tag: str) -> dict[int, np.ndarray]:
    """Return the sheets [H′, W′, 3] with a given tag in the event files of a run, by epoch.

    Every start of a run writes a new file. The START event of a resumed run gives its first epoch and invalidates later
    epochs of earlier files. If an epoch was written twice, the last one counts.
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
    frames = min(
        MAX_EPOCHS,
        MAX_TOTAL_PIXELS
        // max([MAX_TOTAL_PIXELS // MAX_EPOCHS, *(count_pixels(encoded) for encoded in found.values())]),
    )
    # Evenly spaced, including the first and the last.
    chosen = {epochs[round(i * (len(epochs) - 1) / max(frames - 1, 1))] for i in range(frames)} if epochs else set()
    return {epoch: decode_pixels(found[epoch]) for epoch in sorted(chosen)}


def count_pixels(encoded: bytes) -> int:
    """Return the number of pixels of an encoded image; raises Impossible unless it is a PNG of limited size."""
    with open_image(encoded) as picture:
        return picture.width * picture.height


def decode_pixels(encoded: bytes) -> np.ndarray:
    """Return an encoded image as an array [H′, W′, 3]; raises Impossible unless it is a PNG of limited size."""
    with open_image(encoded) as picture:
        return np.asarray(picture.convert("RGB"))


@contextmanager
def open_image(encoded: bytes) -> Iterator[Image.Image]:
    """Open an encoded image; raises Impossible if it is too large or damaged, also for errors within the block."""
    try:
        with Image.open(io.BytesIO(encoded), formats=["PNG"]) as picture:
            if picture.width * picture.height > MAX_SHEET_PIXELS:
                size = f"{picture.width} × {picture.height} pixels"
                raise Impossible(f"an image in the run's event files is too large: {size}")
            yield picture
    except Impossible:
        raise
    except Exception as error:
        # Pillow raises almost any exception for damaged files.
        raise Impossible(f"an image in the run's event files is damaged ({type(error).__name__})") from error


def split_sheet(sheet: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    """Split a sheet [H′, W′, 3] into its images [rows, columns, C, H, W] in [0, 1].

    The sheet has a border of one pixel around each image and was enlarged by an integer factor; the largest possible
    factor is assumed. Large images were shrunk to `thumbnail_shape`. Raises Impossible if the sheet does not consist of
    images of `shape`.
    """
    for channels, height, width in dict.fromkeys((thumbnail_shape(shape), tuple(shape))):
        if (found := find_tiles(sheet, channels, height, width)) is not None:
            return found
    raise Impossible(f"the images in the run's event files do not have the shape {shape}")


def find_tiles(sheet: np.ndarray, channels: int, height: int, width: int) -> Tensor | None:
    """Split a sheet into images [rows, columns, C, H, W] in [0, 1]; None if its size does not fit them."""
    for factor in range(math.gcd(*sheet.shape[:2]), 0, -1):
        small = sheet[::factor, ::factor]
        rows, columns = (small.shape[0] - 1) // (height + 1), (small.shape[1] - 1) // (width + 1)
        fits = small.shape[:2] == (rows * (height + 1) + 1, columns * (width + 1) + 1)
        if rows and columns and fits and np.array_equal(small.repeat(factor, 0).repeat(factor, 1), sheet):
            tiles = small[1:, 1:, :channels].reshape(rows, height + 1, columns, width + 1, channels)[:, :-1, :, :-1]
            return torch.from_numpy(tiles.transpose(0, 2, 4, 1, 3).astype(np.float32) / 255)
    return None


def training_title(model: Model, request: Request) -> str:
    """Return the title of images over training, which says what is kept constant."""
    what = "Samples of the same random numbers" if has(model, Samples) else "Reconstructions of the same images"
    return f"{what} over training"


KINDS = (
    Kind(
        "training",
        "after each epoch of training: a strip and a GIF",
        can=lambda model: has(model, Samples) or has(model, Reconstructs),
        make=load_training_images,
        verb="show its training",
        lacks="it neither samples nor reconstructs",
        title=training_title,
        layout="strip",
        order=80,
    ),
)
