"""make bench-gpu: steps on a GPU, one by one and recorded, and docs/gpu.json and its table written.

python -m tests.benchmarks.gpu
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from aectl.commands.train_setup import build_optimizer, read_data
from aectl.config import build, conf_dir
from aectl.config.recipe import with_recipe
from aectl.data import downloads
from aectl.runs.loading import build_device, build_model
from aectl.training.trainer import Observer, Trainer
from tests.benchmarks import ours

PAGE, NUMBERS = Path("docs/BENCHMARKS.md"), Path("docs/gpu.json")
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
WAYS = {
    "one by one": ("device.graph=false",),
    "recorded": (),
    "recorded, tf32": ("device.precision=tf32",),
    "recorded, bf16": ("device.precision=bf16",),
    "recorded, compiled": ("device.compile=true",),
}
"""How a step can run, and what is typed for it."""
MODELS = {
    "`vae`, 784-400-20": (*ours.NETWORKS["vae"], "epochs=50"),
    "`undercomplete`, 784-1000-500-250-30": (*ours.NETWORKS["dense"], "epochs=50"),
    "`conv`": ("model=conv", "epochs=50"),
    "`dae`, 784-1024": ("model=dae", "noise=gaussian", "epochs=50"),
    "`classic_gan`": ("experiment=classic_gan", "epochs=50"),
    "`rbm`": ("model=rbm", "epochs=50"),
    "`experiment=burda_vae_1l_k1`, batch 20": ("experiment=burda_vae_1l_k1",),
}
COMPILED = ("`vae`, 784-400-20", "`experiment=burda_vae_1l_k1`, batch 20")
"""What is compiled too, which takes half a minute each."""
WARM, STEPS, EPOCHS = 100, 1000, 6
"""Steps that do not count, those that do, and epochs by the command."""


class Steps(Observer):
    """Counts the steps, and times those behind the first few, the device's work done at both ends."""

    def __init__(self, steps: int) -> None:
        self.count, self.steps = 0, steps

    def stepped(self, trainer: Trainer) -> None:
        self.count += 1
        if self.count in (WARM, WARM + self.steps):
            torch.cuda.synchronize()
            self.began, self.ended = (self.ended if self.count > WARM else 0.0), time.perf_counter()

    def stop(self) -> str | None:
        """Return a reason to stop once there are enough."""
        return "max_time" if self.count >= WARM + self.steps else None

    def microseconds(self) -> float:
        """Return what one step took."""
        return (self.ended - self.began) / self.steps * 1e6


def trainer(words: Sequence[str], folder: str, watch: Observer) -> Trainer:
    """Return the trainer of a config on the GPU."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = with_recipe(compose("train", overrides=["device=cuda", *words]))
    device, dataset = build_device(config), build(config.dataset, "dataset")
    data = read_data(dataset, {"shape": list(dataset.shape), "classes": dataset.classes}, device)
    torch.manual_seed(0)
    model = build_model(config, data.facts, 0).to(device.torch)
    limits = {"epochs": config.epochs, "batch_size": config.batch_size, "observers": [watch]}
    place = {"device": device, "folder": Path(folder), "schedule": build(config.schedule, "schedule")}
    return Trainer(model, data.train, data.valid, build_optimizer(config), facts=data.facts, **place, **limits)


def step(words: Sequence[str]) -> float:
    """Return the microseconds of one training step."""
    watch = Steps(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        trainer(words, folder, watch).fit(watch.stop)
    return watch.microseconds()


def tutorial(folder: str) -> list[float]:
    """Return the seconds of two epochs of the VAE by the loop that tutorials have, on the GPU."""
    script = Path(__file__).with_name("peers.py")
    command = [sys.executable, "-W", "ignore", str(script), "tutorial", "vae", folder, "2", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "DEVICE": "cuda"})
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))["seconds"]


def measure() -> Iterator[tuple[str, Any]]:
    """Yield each thing that is measured, by name, as soon as it is known."""
    yield "machine", f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    for name, words in MODELS.items():
        ways = {way: extra for way, extra in WAYS.items() if "compiled" not in way or name in COMPILED}
        yield name, {way: step((*words, *extra)) for way, extra in ways.items()}
    for way, words in WAYS.items():
        yield f"an epoch, {way}", median(ours.train("vae", EPOCHS, words, "cuda")["seconds"][1:])
    yield "an epoch, tutorial loop", tutorial(str(downloads.data_folder()))[-1]


def main() -> None:
    """Measure, and write the numbers as they come."""
    found: dict[str, Any] = {}
    for name, value in measure():
        found[name] = value
        print(name, json.dumps(value), flush=True)
        NUMBERS.write_text(json.dumps(found, indent=1) + "\n")
    rewrite(found)


def rewrite(found: Mapping[str, Any]) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", "", *page(found), "", f"{END}{after}"]), encoding="utf-8")


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{found['machine']}."
    yield ""
    yield "| VAE 784-400-20, an epoch of 60,000 images, batch 128 | s |"
    yield "|---|---|"
    for name in ("tutorial loop", *WAYS):
        if seconds := found.get(f"an epoch, {name}"):
            yield f"| {name} | {seconds:.3f} |"
    yield ""
    yield f"| µs a step, batch 128 | {' | '.join(WAYS)} |"
    yield f"|---|{'---|' * len(WAYS)}"
    for name in MODELS:
        if row := found.get(name):
            yield f"| {name} | {' | '.join(f'{row[way]:.0f}' if way in row else '' for way in WAYS)} |"


if __name__ == "__main__":
    main()
