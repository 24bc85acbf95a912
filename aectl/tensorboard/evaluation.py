"""Write an evaluation to TensorBoard, next to the training curves: scalars, pictures and PR curves."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aectl.system.atomic_write import name_path_in_errors
from aectl.system.terminal import escape_unprintable
from aectl.tensorboard.summaries import add_scalar

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SCALARS_SUFFIX, CURVES_SUFFIX = ".eval", ".eval-curves"
"""Suffixes of the event files of scalars and pictures, and of PR curves; each evaluation replaces them."""


def write_evaluation(
    folder: Path,
    epoch: int,
    scalars: Mapping[str, float],
    pictures: Mapping[str, Path],
    anomalies: Mapping[str, tuple[Tensor, Tensor]] | None,
    descriptions: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write scalars, PNG files as images, and a PR curve for each set of outliers into the run's folder.

    `anomalies` has the anomaly scores of inliers [N] and outliers [M] by the outliers' name; None keeps the existing
    curves. `descriptions` explain scalars by tag.
    """
    with replace_events(folder, SCALARS_SUFFIX) as writer:
        for name, value in scalars.items():
            add_scalar(writer, name, value, epoch, descriptions.get(name, ""))
        for name, path in pictures.items():
            # The file may come from a stranger, and Pillow starts programs for other formats.
            with Image.open(path, formats=["PNG"]) as image:
                writer.add_image(name, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
    if anomalies is None:
        return
    remove_events(folder, CURVES_SUFFIX)
    if anomalies:
        with replace_events(folder, CURVES_SUFFIX) as writer:
            for name, (inliers, outliers) in anomalies.items():
                truth = torch.cat([torch.zeros(len(inliers)), torch.ones(len(outliers))])
                writer.add_pr_curve(f"eval/anomalies/{name}", truth, rank_scores(torch.cat([inliers, outliers])), epoch)


def remove_events(folder: Path, suffix: str) -> None:
    """Remove the event files that end with `suffix`."""
    for old in folder.glob(f"events.out.tfevents.*{suffix}"):
        old.unlink()


@contextmanager
def replace_events(folder: Path, suffix: str) -> Iterator[SummaryWriter]:
    """Context with a writer whose event file replaces the existing ones with this suffix."""
    from torch.utils.tensorboard import SummaryWriter

    remove_events(folder, suffix)
    with name_path_in_errors(folder), SummaryWriter(utf8_path(folder), filename_suffix=suffix) as writer:
        yield writer


def utf8_path(folder: Path) -> str:
    """Return a folder's path as UTF-8, which TensorBoard requires: absolute, else relative to the working folder.

    Raises OSError if neither is UTF-8.
    """
    for path in (str(folder), os.path.relpath(folder)):
        with contextlib.suppress(UnicodeEncodeError):
            path.encode()
            return path
    raise OSError(errno.EILSEQ, "TensorBoard needs folder names in UTF-8", escape_unprintable(str(folder)))


def rank_scores(scores: Tensor) -> Tensor:
    """Return the rank of each score, scaled to [0, 1]; equal scores have equal ranks.

    TensorBoard's PR curves need probabilities, and depend only on the order of the scores.
    """
    _, inverse, counts = scores.cpu().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0)[inverse] - 1) / max(len(scores) - 1, 1)
