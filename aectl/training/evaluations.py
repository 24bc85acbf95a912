"""TensorBoard's view of an evaluation, beside the curves of training: numbers, pictures, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aectl.durable import naming

SUFFIX = ".eval"
"""Of the event files that are written here: each evaluation takes the place of the one before."""


def write(
    folder: Path,
    epoch: int,
    scalars: Mapping[str, float],
    pictures: Mapping[str, Path],
    anomalies: Mapping[str, tuple[Tensor, Tensor]],
) -> None:
    """Write an event file into the run's folder: scalars, PNG files as images, and a PR curve for each set of outliers.

    `anomalies` are the scores of inliers [N] and of outliers [M] by the outliers' name; the larger, the stranger.
    """
    from torch.utils.tensorboard import SummaryWriter

    for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        old.unlink()
    with naming(folder), SummaryWriter(str(folder), filename_suffix=SUFFIX) as writer:
        for name, value in scalars.items():
            writer.add_scalar(name, value, epoch)
        for name, path in pictures.items():
            with Image.open(path) as image:
                writer.add_image(name, np.asarray(image.convert("RGB")), epoch, dataformats="HWC")
        for name, (inliers, outliers) in anomalies.items():
            truth = torch.cat([torch.zeros(len(inliers)), torch.ones(len(outliers))])
            writer.add_pr_curve(f"eval/anomalies/{name}", truth, ranked(torch.cat([inliers, outliers])), epoch)


def ranked(scores: Tensor) -> Tensor:
    """Return each score's rank as a share in [0, 1], equal ones for equal scores.

    TensorBoard's curves want probabilities, and of scores only the order counts.
    """
    _, inverse, counts = scores.cpu().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0)[inverse] - 1) / max(len(scores) - 1, 1)
