"""What bf16 gains and what it costs: steps timed in turn, and test losses of runs that differ in nothing else.

python -m tests.benchmarks.precision      # writes the section "bf16" of docs/BENCHMARKS.md
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Batch, Model
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng
from aectl.system.machine import count_usable_cores
from aectl.training.device import Device
from aectl.training.engine import Engine
from tests.benchmarks.__main__ import PAGE, machine

MODELS, WIDTHS, BATCHES, SEEDS = ("undercomplete", "vae"), (512, 1024, 2048, 4096), (128, 512), (0, 1, 2)
PRECISIONS = ("fp32", "bf16")
TRAINED_WIDTH, EPOCHS = 2048, 2
SECONDS, WARM = 6.0, 2
"""How long the steps of a pair are timed, and how many of each do not count."""
BEGIN, END = "<!-- bf16: begin -->", "<!-- bf16: end -->"
Cell = tuple[str, int, int]


def main() -> int:
    """Measure everything, and write the section; returns the process's exit code."""
    times = {cell: steps(*cell) for cell in product(MODELS, WIDTHS, BATCHES)}
    losses = {(model, seed): pair(model, seed) for model, seed in product(MODELS, SEEDS)}
    write(times, losses)
    return 0


def network(model: str, width: int) -> Model:
    """Return 784-w-w-code and back, as `model=…` has it, with weights of seed 0."""
    torch.manual_seed(0)
    encoder, decoder = partial(DenseEncoder, widths=[width] * 2), partial(DenseDecoder, widths=[width] * 2)
    if model == "vae":
        return VAE((1, 28, 28), 50, encoder, decoder)
    return Autoencoder((1, 28, 28), 32, encoder, decoder, output="sigmoid")


def steps(model: str, width: int, images: int) -> dict[str, float]:
    """Return the median seconds of a training step in each precision, taken in turn."""
    Device("cpu").apply()
    batch = Batch(Rng(0).uniform(images, 1, 28, 28), torch.zeros(images, dtype=torch.int64), torch.arange(images))
    optimizer = partial(torch.optim.Adam, lr=0.001, fused=True)
    engines: dict[str, tuple[Engine, Rng]] = {}
    for precision in PRECISIONS:
        net = network(model, width)
        engine = Engine(net, next(net.stages()), optimizer, Device("cpu", precision))
        engines[precision] = engine, Rng(0)
    taken: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(taken["fp32"]) <= 2 * WARM:
        for precision, (engine, rng) in engines.items():
            began = time.perf_counter()
            engine.step(batch, rng)
            taken[precision].append(time.perf_counter() - began)
    return {precision: median(seconds[WARM:]) for precision, seconds in taken.items()}


def pair(model: str, seed: int) -> dict[str, dict[str, float]]:
    """Return the test loss and seconds of the last epoch of runs of `TRAINED_WIDTH` that differ in precision alone."""
    return {precision: train(model, seed, precision) for precision in PRECISIONS}


def train(model: str, seed: int, precision: str) -> dict[str, float]:
    """Train by the command line and evaluate; returns what `aectl eval` says of the test images, and the seconds."""
    widths = [f"model.{part}.widths=[{TRAINED_WIDTH},{TRAINED_WIDTH}]" for part in ("encoder", "decoder")]
    words = [f"model={model}", *widths, f"seed={seed}", f"epochs={EPOCHS}", f"device.precision={precision}"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        aectl("train", *words, "device=cpu", f"hydra.run.dir={run}")
        aectl("eval", f"run={run}", "device=cpu", "only=reconstruction", "figures=false")
        metrics = json.loads((run / "metrics.json").read_text())
    return {"loss": metrics["test"]["objective"]["model"]["loss"], "seconds": metrics["train"]["seconds"]}


def aectl(*words: str) -> None:
    """Run a command of aectl; raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "aectl", *words], stdout=subprocess.DEVNULL, check=True)


def write(times: dict[Cell, dict[str, float]], losses: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Put the tables between the section's marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(page(times, losses)) + f"\n\n{END}{after}", encoding="utf-8")


def page(times: dict[Cell, dict[str, float]], losses: dict[tuple[str, int], dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the section: the machine, a table of steps and one of test losses."""
    yield f"{machine()}; {count_usable_cores()} threads."
    yield "\n| model | width | batch | fp32, ms a step | bf16, ms a step | faster by |"
    yield "|---|---|---|---|---|---|"
    for (model, width, images), taken in times.items():
        old, new = (1000 * taken[precision] for precision in PRECISIONS)
        yield f"| `{model}` | {width} | {images} | {old:.1f} | {new:.1f} | {old / new:.2f}× |"
    yield f"\nWidth {TRAINED_WIDTH}, {EPOCHS} epochs of MNIST, batch 128, means over seeds from 0 on:"
    yield "\n| model | fp32, test loss | bf16, test loss | difference (of each seed) | s an epoch, fp32 and bf16 |"
    yield "|---|---|---|---|---|"
    for model in dict.fromkeys(model for model, _ in losses):
        runs = [found for (name, _), found in losses.items() if name == model]
        old, new = (mean(run[precision]["loss"] for run in runs) for precision in PRECISIONS)
        each = ", ".join(f"{run['bf16']['loss'] / run['fp32']['loss'] - 1:+.2%}" for run in runs)
        seconds = " and ".join(f"{median(run[precision]['seconds'] for run in runs):.1f}" for precision in PRECISIONS)
        yield f"| `{model}` | {old:.3f} | {new:.3f} | {new / old - 1:+.2%} ({each}) | {seconds} |"


if __name__ == "__main__":
    sys.exit(main())
