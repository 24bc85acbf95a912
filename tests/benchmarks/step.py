"""Where the milliseconds of a step go: the parts of the trainer's step, timed, and its products as torch profiles them.

python -m tests.benchmarks.step vae      # seconds of each part as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median, quantiles
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from aectl.commands.train_setup import build_optimizer
from aectl.config import build, conf_dir
from aectl.config.recipe import with_recipe
from aectl.data.datasets import Source
from aectl.rng import Rng
from aectl.runs.loading import build_model
from aectl.training.engine import Engine
from aectl.training.meter import Meter
from aectl.training.trainer import Trainer
from tests.benchmarks.ours import COMMON, NETWORKS

WARM, STEPS, PROFILED = 50, 600, 40
"""Steps before any counts, steps that are timed, of which the faster half counts, and steps that are profiled."""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
PARTS = {
    "products": "products of matrices",
    "forward": "forward without them",
    "backward": "backward without them",
    "optimizer": "Adam",
    "batch": "batch: gathered, made floats",
    "random": "random numbers",
    "norm": "gradient norm, every tenth step",
    "meter": "losses noted",
    "rest": "the trainer's own Python, and the rest",
}

Parts = dict[str, float]


class Stopwatch:
    """Seconds that each part of a step takes; those of a part within another one count for the inner one alone."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.within = [0.0]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its seconds counted for the part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.within.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - began
                self.spent[part] += taken - self.within.pop()
                self.within[-1] += taken

        return call


def trainer_of(network: str, folder: Path) -> Trainer:
    """Return a trainer of one of our networks, as `aectl train` makes it but for what it shows and writes."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = with_recipe(compose("train", [*NETWORKS[network], *COMMON, "device=cpu"]))
    device = build(config.device, "device")
    device.apply()
    dataset = build(config.dataset, "dataset")
    source = dataset.split("train", device.torch)
    model = build_model(config, {"shape": dataset.shape, "classes": dataset.classes}, config.seed)
    schedule = build(config.schedule, "schedule")
    settings = {"device": device, "folder": folder, "epochs": config.epochs, "batch_size": config.batch_size}
    none = source.take(torch.arange(0))
    return Trainer(model, source, none, build_optimizer(config), schedule=schedule, **settings)


def steps(trainer: Trainer, count: int) -> Iterator[None]:
    """Run so many steps of an epoch as the trainer does, and yield after each."""
    trainer.model.train()
    batches = torch.randperm(len(trainer.examples)).split(trainer.batch_size)
    for number in range(count):
        trainer.step = number % trainer.steps_per_epoch
        trainer.scale_rates()
        trainer.record_step(trainer.engine.step_on(trainer.examples, batches[trainer.step], trainer.rng))
        yield


def timed(trainer: Trainer) -> list[Parts]:
    """Return the seconds of each part for each step, and those of the whole step as 'step'."""
    watch, found = Stopwatch(), []
    losses = trainer.model.losses

    def watched(*args: Any) -> Iterator[Any]:
        following = iter(losses(*args))
        step = watch.timed("forward", lambda: next(following, None))
        while (loss := step()) is not None:
            yield loss

    places = ((Source, "batch"), (Rng, "draw"), (torch.Tensor, "backward"), (Engine, "gradient_norm"), (Meter, "add"))
    with ExitStack() as patches:
        for part, (owner, name) in zip(("batch", "random", "backward", "norm", "meter"), places, strict=True):
            patches.enter_context(patch.object(owner, name, watch.timed(part, getattr(owner, name))))
        patches.enter_context(patch.object(trainer.model, "losses", watched))
        moves = {name: watch.timed("optimizer", step) for name, step in trainer.engine.steps.items()}
        patches.enter_context(patch.object(trainer.engine, "steps", moves))
        began = time.perf_counter()
        for _ in steps(trainer, STEPS):
            found.append({**watch.spent, "step": time.perf_counter() - began})
            watch.spent.clear()
            began = time.perf_counter()
    return found


def profiled(trainer: Trainer) -> Parts:
    """Return the seconds that a step's products take forwards and backwards, each by its lower quartile."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in steps(trainer, PROFILED):
            pass
    taken: dict[str, list[float]] = {"forward": [], "backward": []}
    for event in profiler.events():
        if event.name in PRODUCTS:
            taken["backward" if is_backward(event) else "forward"].append(event.self_cpu_time_total * 1e-6)
    # The middle of the faster half, of which the timed steps are the mean.
    return {way: sum(quantiles(one)[0] for one in by_place(seconds)) for way, seconds in taken.items()}


def by_place(seconds: list[float]) -> list[list[float]]:
    """Return one list for each product of a step, of its seconds at every step."""
    places = len(seconds) // PROFILED
    return [seconds[place::places] for place in range(places)]


def is_backward(event: FunctionEvent | None) -> bool:
    """Return whether an operation was called by the backward pass."""
    while event is not None:
        if event.name.startswith("autograd::engine"):
            return True
        event = event.cpu_parent
    return False


def parts(network: str) -> Parts:
    """Return the seconds of a step that each part takes, and of the whole as 'step': means over the faster steps."""
    with TemporaryDirectory() as folder:
        trainer = trainer_of(network, Path(folder))
        for _ in steps(trainer, WARM):
            pass
        each, products = timed(trainer), profiled(trainer)
    half = median(one["step"] for one in each)
    chosen = [one for one in each if one["step"] <= half]
    found = {part: mean(one.get(part, 0.0) for one in chosen) for part in (*PARTS, "step")}
    found["rest"] = found["step"] - sum(seconds for part, seconds in found.items() if part != "step")
    for way, seconds in products.items():
        found[way] -= seconds
        found["products"] += seconds
    return found


def measure(network: str) -> Parts:
    """Return what `parts` does, found in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.step", network]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def table(found: Parts) -> Iterator[str]:
    """Yield the lines of a table: the milliseconds and the share of each part of a step."""
    yield f"\nA step takes {found['step'] * 1e3:.2f} ms by itself (the faster half of {STEPS}):\n"
    yield "| part | ms | share |"
    yield "|---|---|---|"
    for part, name in PARTS.items():
        yield f"| {name} | {found[part] * 1e3:.2f} | {found[part] / found['step']:.0%} |"


if __name__ == "__main__":
    print(json.dumps(parts(sys.argv[1])))
