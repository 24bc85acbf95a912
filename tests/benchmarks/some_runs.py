"""Some steps of several small runs in a process of its own: what an image takes, in seconds, and how much memory.

    python -m tests.benchmarks.some_runs CONTENDER RUNS

CONTENDER is `fused`, the runs in one program, or `apart`, each of their steps after the other. The runs are
autoencoders 64-32-8-32-64 on digits that differ in their seeds. Prints a line of JSON: seconds an image of a run, and
MiB of memory beyond what the process had with everything imported.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from aectl.data.datasets import digits
from aectl.models.autoencoder import Autoencoder
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.together import Apart, Steps, Together
from aectl.training.trainer import Trainer
from tests.benchmarks import peers
from tests.benchmarks.some_steps import Watch, cost, enough

BATCH, WIDTH, CODE = 64, 32, 8


class OneByOne(Together):
    """Takes the steps as the runs would alone."""

    def steps_of(self, trainers: Mapping[int, Trainer]) -> Steps:
        return Apart(trainers, self.within)


def train(contender: str, runs: int, folder: Path) -> list[float]:
    """Train the runs, and return when each step of the first of them ended."""
    device, dataset, watch = Device("cpu", threads=1), digits(), Watch()
    device.apply()
    train, valid = dataset.split("train"), dataset.split("valid")
    encoder, decoder = (partial(kind, widths=[WIDTH]) for kind in (DenseEncoder, DenseDecoder))
    optimizer, limits = partial(torch.optim.Adam, lr=peers.RATE, fused=True), {"epochs": 100_000, "batch_size": BATCH}
    trainers = []
    for seed in range(runs):
        torch.manual_seed(seed)
        model = Autoencoder(dataset.shape, CODE, encoder, decoder)
        place = {"device": device, "folder": folder / str(seed), "observers": [] if seed else [watch], "seed": seed}
        trainers.append(Trainer(model, train, valid, optimizer, schedule=Constant(), **place, **limits))
    kind = {"fused": Together, "apart": OneByOne}[contender]
    for _ in kind(trainers, lambda: "max_time" if enough(watch.ends) else None).fit():
        pass
    return watch.ends


def main(contender: str, runs: str) -> None:
    """Train, and print what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(cost(lambda: train(contender, int(runs), Path(folder)), int(runs) * BATCH)))


if __name__ == "__main__":
    main(*sys.argv[1:])
