"""The judge: a fixed classifier for each data set whose features compare images and sets of images.

It is not an Inception network, so that a distance in its features is not an FID. All installations of aectl have the
same judges, which were not trained on test images. The header of each file states how the judge was trained and its
test accuracy. `make judges` trains and packs them again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from aectl.models.base import Classifies, ClassifiesCodes, Encodes, Model
from aectl.models.classifier import Classifier
from aectl.models.networks import ConvEncoder

FOLDER = Path(__file__).parent / "judges"
DIGESTS = {
    "mnist": "689449d32bc3389eac89eba30efffd1890df413905b43274556d171a0f64782e",
    "fashion_mnist": "abea3ca3390f49712b0f1da6073b0f83ffd7003e7c759996173d1f3bfceee978",
}
"""SHA-256 of each judge's file by data set."""
SHAPE, CLASSES, CODE, CHANNELS = (1, 28, 28), 10, 128, (32, 64, 128)
"""Shape of the images and sizes of the network, the same for all judges."""
CHUNK = 500


class Seen(NamedTuple):
    """What a judge makes of N images."""

    features: Tensor  # [N, D]
    classes: Tensor  # likeliest class [N]


@dataclass(frozen=True)
class Judge:
    """A frozen classifier that encodes images; `name` is that of its data set or run with a digest of its weights."""

    name: str
    model: Model
    is_shipped: bool = True

    @property
    def digest(self) -> str:
        """The end of the name, which identifies the weights."""
        return self.name.rpartition("-")[2]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the features [N, D] of images [N, C, H, W], pixels in [0, 1]."""
        model = cast("Encodes", self.model)
        return torch.cat([model.encode(part).flatten(1) for part in images.split(CHUNK)])

    @torch.no_grad()
    def see(self, images: Tensor) -> Seen:
        """Return the features and the likeliest classes of images [N, C, H, W], pixels in [0, 1]."""
        features = self.features(images)
        if isinstance(self.model, ClassifiesCodes):
            return Seen(features, self.model.classify_codes(features).argmax(1))
        model = cast("Classifies", self.model)
        return Seen(features, torch.cat([model.classify(part).argmax(1) for part in images.split(CHUNK)]))


def load_judge(dataset: str, device: torch.device | str = "cpu") -> Judge | str:
    """Return the judge of a data set, or the reason why there is none; raises ValueError if its file has changed."""
    if dataset not in DIGESTS:
        return (
            f"there is no judge for the data set '{dataset}'; train one with "
            f"`aectl train experiment=judge dataset={dataset}`, then add judge=latest"
        )
    path = FOLDER / f"{dataset}.safetensors"
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGESTS[dataset]:
        raise ValueError(f"{path} is not the judge that belongs to this version: its SHA-256 is {found}")
    encoder = partial(ConvEncoder, channels=CHANNELS, code_activation="relu", norm="batch")
    model = Classifier(SHAPE, CLASSES, CODE, encoder)
    model.load_state_dict(load(content))
    return Judge(f"{dataset}-{found[:8]}", model.to(device).eval().requires_grad_(False))


def read_header(dataset: str) -> dict[str, str]:
    """Return the header of a judge's file: command, data, versions, test accuracy."""
    with safe_open(FOLDER / f"{dataset}.safetensors", "pt") as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}
