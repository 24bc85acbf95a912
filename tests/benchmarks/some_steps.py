"""Some steps of training in a process of its own: what an image takes, in seconds, and how much memory there was.

    python -m tests.benchmarks.some_steps CONTENDER WIDTH BATCH IMAGES

CONTENDER is `aectl` or `tutorial`, the VAE is 784-WIDTH-20-WIDTH-784, IMAGES a .npy file of bytes, or `mnist`. Prints a
line of JSON: seconds an image, and MiB of memory beyond what the process had with everything imported.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

from aectl.data.datasets import Dataset, arrays, mnist
from aectl.data.downloads import data_folder
from aectl.data.torchvision_shim import torchvision
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.system.machine import count_usable_cores
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.step_cost import count_multiplications
from aectl.training.trainer import Observer, Trainer
from tests.benchmarks import peers

WARM, LEAST, SECONDS = 10, 20, 1.5
"""Steps that do not count; after them at least so many, and at least for so long."""
CODE = 20
WATCH_SECONDS = 0.02


def enough(ends: list[float]) -> bool:
    """Return whether steps that ended at these times are enough."""
    return len(ends) > WARM + LEAST and ends[-1] - ends[WARM] > SECONDS


class Watch(Observer):
    """Notes when each step has ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def stepped(self, trainer: Trainer) -> None:
        self.ends.append(time.perf_counter())


def aectl(width: int, batch: int, images: str) -> list[float]:
    """Train by aectl's trainer, and return when each step ended."""
    dataset: Dataset = mnist() if images == "mnist" else arrays(images, valid=1000, test=1000)
    device = Device("cpu")
    device.apply()
    train, valid = dataset.split("train"), dataset.split("valid")
    encoder, decoder = (partial(kind, widths=[width]) for kind in (DenseEncoder, DenseDecoder))
    torch.manual_seed(0)
    model, watch = VAE(dataset.shape, CODE, encoder, decoder, binarise=False), Watch()
    device.adapt_threads(count_multiplications(model, train.batch(torch.arange(8))) * batch)
    with tempfile.TemporaryDirectory() as folder:
        optimizer, limits = partial(torch.optim.Adam, lr=peers.RATE, fused=True), {"epochs": 1000, "batch_size": batch}
        place = {"device": device, "folder": Path(folder), "observers": [watch]}
        trainer = Trainer(model, train, valid, optimizer, schedule=Constant(), **place, **limits)
        trainer.fit(lambda: "max_time" if enough(watch.ends) else None)
    return watch.ends


def tutorial(width: int, batch: int, images: str) -> list[float]:
    """Train by the loop that tutorials have, on MNIST, and return when each step ended."""
    torchvision()
    torch.set_num_threads(count_usable_cores())
    torch.manual_seed(0)
    model, ends = peers.Vae(width), []
    optimizer = torch.optim.Adam(model.parameters(), lr=peers.RATE)
    for x in shuffled(batch):
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        optimizer.step()
        loss.item()
        ends.append(time.perf_counter())
        if enough(ends):
            break
    return ends


def shuffled(batch: int) -> Iterator[torch.Tensor]:
    """Yield batches of MNIST, epoch after epoch."""
    loader = DataLoader(peers.images(str(data_folder())), batch_size=batch, shuffle=True)
    while True:
        yield from (x for x, _ in loader)


def anonymous() -> float:
    """Return this process's memory in MiB but for files that are mapped, which the system takes back at need."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def peak(found: list[float]) -> None:
    """Keep the most memory that there was in found[0]."""
    while True:
        found[0] = max(found[0], anonymous())
        time.sleep(WATCH_SECONDS)


def cost(train: Callable[[], list[float]], images: int) -> dict[str, float]:
    """Return the seconds that each of so many images of a step takes, and MiB beyond what there was before."""
    before = anonymous()
    most = [before]
    threading.Thread(target=peak, args=(most,), daemon=True).start()
    ends = train()
    most[0] = max(most[0], anonymous())
    steps = [after - earlier for earlier, after in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]
    return {"seconds": median(steps) / images, "memory": most[0] - before}


def main(contender: str, width: str, batch: str, images: str) -> None:
    """Train, and print what came of it."""
    train = {"aectl": aectl, "tutorial": tutorial}[contender]
    print(json.dumps(cost(lambda: train(int(width), int(batch), images), int(batch))))


if __name__ == "__main__":
    main(*sys.argv[1:])
