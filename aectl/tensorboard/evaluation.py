"""TensorBoard's view of an evaluation, beside the curves of training: numbers, pictures, precision and recall."""

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

from aectl.system.atomic_write import naming
from aectl.system.terminal import printable
from aectl.tensorboard.summaries import add_scalar

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SUFFIX, CURVES = ".eval", ".eval-curves"
"""Suffixes of the event files of numbers and pictures, and of PR curves; each replaces the one before."""


def write(
    folder: Path,
    epoch: int,
    scalars: Mapping[str, float],
    pictures: Mapping[str, Path],
    anomalies: Mapping[str, tuple[Tensor, Tensor]] | None,
    descriptions: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write an event file into the run's folder: scalars, PNG files as images, and a PR curve for each set of outliers.

    `anomalies` are the scores of inliers [N] and of outliers [M] by the outliers' name; the larger, the stranger.
    None leaves the curves that are there. `descriptions` state what scalars mean, by tag.
    """
    with replaced_writer(folder, SUFFIX) as writer:
        for name, value in scalars.items():
            add_scalar(writer, name, value, epoch, descriptions.get(name, ""))
        for name, path in pictures.items():
            # Of an earlier evaluation, in a folder that may be a stranger's: another format may start a program.
            with Image.open(path, formats=["PNG"]) as image:
                writer.add_image(name, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
    if anomalies is None:
        return
    remove_events(folder, CURVES)
    if anomalies:
        with replaced_writer(folder, CURVES) as writer:
            for name, (inliers, outliers) in anomalies.items():
                truth = torch.cat([torch.zeros(len(inliers)), torch.ones(len(outliers))])
                writer.add_pr_curve(f"eval/anomalies/{name}", truth, ranked(torch.cat([inliers, outliers])), epoch)


def remove_events(folder: Path, suffix: str) -> None:
    """Remove the event files with this suffix."""
    for old in folder.glob(f"events.out.tfevents.*{suffix}"):
        old.unlink()


@contextmanager
def replaced_writer(folder: Path, suffix: str) -> Iterator[SummaryWriter]:
    """Write an event file with this suffix instead of those that are there."""
    from torch.utils.tensorboard import SummaryWriter

    remove_events(folder, suffix)
    with naming(folder), SummaryWriter(log_folder(folder), filename_suffix=suffix) as writer:
        yield writer


def log_folder(folder: Path) -> str:
    """Return a folder's path for TensorBoard, whose paths are UTF-8: from the working folder on where it must be so.

    Raises OSError if not even that is UTF-8.
    """
    for path in (str(folder), os.path.relpath(folder)):
        with contextlib.suppress(UnicodeEncodeError):
            path.encode()
            return path
    raise OSError(errno.EILSEQ, "TensorBoard needs folders whose names are UTF-8", printable(str(folder)))


def ranked(scores: Tensor) -> Tensor:
    """Return each score's rank as a share in [0, 1], equal ones for equal scores.

    TensorBoard's curves want probabilities, and of scores only the order counts.
    """
    _, inverse, counts = scores.cpu().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0)[inverse] - 1) / max(len(scores) - 1, 1)
