"""A small source and a trainer around any model, for 8×8 images."""

from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.trainer import Trainer


def tiny(n: int, seed: int) -> Source:
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Source(images, torch.arange(n) % 10, torch.arange(n), scale=1 / 255, classes=10)


@pytest.fixture
def make_trainer(tmp_path):
    def make(model, folder="checkpoints", n=96, valid=32, labels=None, graph=False, **settings):
        defaults = {"schedule": Constant(), "epochs": 2, "batch_size": 32, "seed": 1}
        optimizer = partial(torch.optim.Adam, lr=1e-3)
        train = tiny(n, 0)
        train.labels[n if labels is None else labels :] = -1
        return Trainer(
            model,
            train,
            tiny(valid, 1),
            settings.pop("optimizer", optimizer),
            device=Device("cpu", threads=1, graph=graph),
            folder=tmp_path / folder,
            **{**defaults, **settings},
        )

    return make
