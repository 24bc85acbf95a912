"""Read the user's image files in a model's shape, and write codes, reconstructions and errors as files."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aectl.data.datasets import load_test_source
from aectl.data.downloads import DataError
from aectl.data.image_files import ReadReport, list_image_files, read_image, read_image_files, summarise_skipped
from aectl.evaluation.context import CHUNK, apply
from aectl.evaluation.reconstruction import psnr
from aectl.figures.image_grids import reconstructions
from aectl.figures.style import default_style, save
from aectl.models.base import Classifies, Encodes, Model, Reconstructs, Scores
from aectl.rng import Rng
from aectl.system.terminal import escape_formula, escape_unprintable

log = logging.getLogger("aectl")

ARRAYS = (".npy", ".npz")
SHOWN = 20
"""Images in reconstructions.png; the arrays hold all."""
BRIGHT, DARK = 0.6, 0.4
"""Mean intensities above and below which images have a light or a dark background."""


def read_images(
    path: str, shape: tuple[int, int, int], invert: bool = False, white: float | None = None
) -> tuple[Tensor, list[str]]:
    """Return images [N, C, H, W] of a model's shape, pixels in [0, 1], and their names.

    `path` is a folder of image files that Pillow can open (png, jpg, bmp, gif, …), one image file, or a .npy or .npz
    file as in `dataset=arrays`. A folder is read in the order of file names, without sub-folders. Image files are
    rotated by their EXIF orientation, composed on white if transparent, converted to grey (ITU-R 601) or RGB, and
    resized to H × W with antialiasing; proportions are not kept. Arrays must have the shape; their names are positions,
    and a .npz with splits gives its test images. `invert` replaces x by 1 - x, e.g. for black ink on white paper and a
    model of white digits on black. `white` is the value of a white pixel, by default the largest of the array's type.
    Files that cannot be read are skipped with a warning.

    Raises DataError if the path does not exist, no image can be read, or the shape is wrong.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() in ARRAYS and not place.is_dir():
        source = load_test_source(str(place), scale=white)
        if source.shape != tuple(shape):
            raise DataError(f"images in {place} are {source.shape} (C, H, W), the model's are {tuple(shape)}")
        images, names = source.pixels(), [str(i) for i in source.index.tolist()]
    else:
        skipped: Counter[str] = Counter()
        files, survey = list_image_files(place, skipped), ReadReport()
        found = dict(read_image_files(files, lambda file: read_image(file, shape, white, survey), survey))
        images, names = torch.stack([*found.values()]), [escape_unprintable(files[position].name) for position in found]
        for line in (summarise_skipped(place, skipped), *survey.notices(place.name)):
            if line:
                log.warning("%s", line)
    return (1 - images if invert else images), names


def looks_inverted(images: Tensor, mean: float) -> bool:
    """Return whether images seem to be negatives of training images with mean intensity `mean`.

    True if one mean intensity is above 0.6 and the other below 0.4, as for ink on paper and MNIST.
    """
    seen = float(images.mean())
    return min(seen, mean) < DARK and max(seen, mean) > BRIGHT


@default_style()
def write_image_results(
    model: Model, images: Tensor, names: Sequence[str], folder: Path | str, rng: Rng | None = None
) -> dict[str, Path]:
    """Apply a model to images [N, C, H, W] and write the results into `folder`; return paths by file name.

    A model that encodes gets codes.npz (`names`, `codes` [N, code]) and codes.csv. A model that reconstructs gets
    reconstructions.npz (`names`, `x`, `x_hat`) and reconstructions.png with the first 20 images. errors.csv has for
    each image the columns that the model can compute: mean squared error per pixel, PSNR in dB, log-likelihood in nats
    (exact or a bound), and predicted class. `rng` is used by likelihood estimates; its default seed is 0. Images, model
    and `rng` must be on one device.

    Raises ValueError if the model can neither encode nor reconstruct.
    """
    if not isinstance(model, (Encodes, Reconstructs)):
        raise ValueError("images: this model can neither encode nor reconstruct images, it only generates them")
    folder = Path(folder)
    written: dict[str, Path] = {}
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Encodes):
        codes = apply(model.encode, images).flatten(1).float().cpu()
        written |= write_npz(folder / "codes.npz", names=np.array(names), codes=codes)
        units = {f"unit_{i}": codes[:, i].tolist() for i in range(codes.shape[1])}
        written |= write_csv(folder / "codes.csv", {"name": names, **units})
    restored = apply(model.reconstruct, images) if isinstance(model, Reconstructs) else None
    if restored is not None:
        arrays: dict[str, Any] = {"names": np.array(names), "x": images.cpu(), "x_hat": restored.cpu()}
        written |= write_npz(folder / "reconstructions.npz", **arrays)
        title = f"Reconstructions of {min(SHOWN, len(images))} of {len(images):,} images"
        figure = reconstructions(images[:SHOWN].cpu(), None, restored[:SHOWN].cpu(), title)
        written["reconstructions.png"] = save(figure, folder / "reconstructions.png")
    if found := score_images(model, images, restored, rng or Rng(0, images.device)):
        written |= write_csv(folder / "errors.csv", {"name": names, **found})
    return written


def score_images(model: Model, images: Tensor, restored: Tensor | None, rng: Rng) -> dict[str, list[Any]]:
    """Return the columns of errors.csv that the model can compute."""
    columns: dict[str, list[Any]] = {}
    if restored is not None:
        columns["mse"] = (images - restored).square().flatten(1).mean(1).double().tolist()
        columns["psnr"] = [psnr(error) for error in columns["mse"]]
    if isinstance(model, Scores):
        with torch.no_grad():
            scores = [model.log_prob(chunk, rng=rng) for chunk in images.split(CHUNK)]
        name = "log_likelihood" if scores[0].kind == "exact" else f"log_likelihood_{scores[0].kind}"
        columns[name] = torch.cat([score.value for score in scores]).tolist()
    if isinstance(model, Classifies):
        columns["class"] = apply(model.classify, images).argmax(1).tolist()
    return columns


def write_npz(path: Path, **arrays: Tensor | np.ndarray) -> dict[str, Path]:
    """Write arrays as .npz; return the path by file name."""
    plain: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(path, **plain)
    return {path.name: path}


def write_csv(path: Path, columns: dict[str, Iterable[Any]]) -> dict[str, Path]:
    """Write columns of equal length as .csv, with nine digits, enough to identify any 32-bit float."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value:.9g}" if isinstance(value, float) else escape_formula(value) for value in row])
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return {path.name: path}
