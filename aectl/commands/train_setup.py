"""Build the parts of a training run from its config: device, optimizer, data and model, observers, trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch.nn import Parameter
from torch.optim import Optimizer

from aectl import parallel
from aectl.commands.train_resume import load_initial_weights
from aectl.config import ConfigError, build, recipe, to_plain
from aectl.config.schema import iterate_leaves
from aectl.data.datasets import Dataset, Source
from aectl.data.digests import describe
from aectl.models.base import Model
from aectl.runs.loading import PARTS, build_model, check_data_description
from aectl.runs.run import Run
from aectl.system.memory_check import MemoryLimit, check_training
from aectl.tensorboard.images import draw_pictures
from aectl.tensorboard.training import TensorBoard
from aectl.training.alarms import Alarms
from aectl.training.cpu_contention import CpuContention
from aectl.training.device import Device
from aectl.training.metrics_csv import METRICS_CSV
from aectl.training.observers import Console, CsvLog
from aectl.training.optimizers import bypass_compiler
from aectl.training.step_cost import count_dense_weights, count_multiplications
from aectl.training.trainer import Observer, Trainer
from aectl.training.validation import batches

FEW = 8
"""Images in the step whose multiplications are counted."""


@dataclass(frozen=True)
class Data:
    """Training and validation images, with their description for checkpoints and run.json."""

    train: Source
    valid: Source
    facts: dict[str, Any]
    """Shape and number of classes: all that a model needs to know of its data."""
    description: dict[str, Any]
    """Name, sizes and digests of all splits, for run.json."""


def build_optimizer(config: DictConfig) -> Callable[..., Optimizer]:
    """Return the function that makes an optimizer; raises ConfigError if it refuses its settings for one weight."""
    bypass_compiler()
    make: Callable[..., Optimizer] = build(config.optimizer, "optimizer")
    try:
        make([Parameter(torch.zeros(1))])
    except ValueError as error:
        raise ConfigError(f"optimizer: {error}") from error
    return make


def build_data_and_model(
    config: DictConfig, run: Run, device: Device, *, is_resumed: bool
) -> tuple[Data, Model, dict[str, str] | None]:
    """Build the model, read the images, and set the keys of `config` that are left to the recipe.

    The third value has the run and weights of `init_from`, None without it. Images are downloaded last, after errors in
    the configs of data set and model and in the initial weights are raised.
    """
    with MemoryLimit("dataset"):
        dataset: Dataset = build(config.dataset, "dataset")
    facts: dict[str, Any] = {"shape": list(dataset.shape), "classes": dataset.classes}
    model = build_model(config, facts, config.seed)
    check_training(model, device.torch)
    model.to(device.torch)
    init_from = load_initial_weights(model, config, run) if config.init_from and not is_resumed else None
    data = read_data(dataset, facts, device)
    if config.resume and config.data == "same":
        check_data_description(run, data.description)
    if recipe.set_recipe_values(config, len(data.train), facts["shape"]):
        weights = model.state_dict()
        model = build_model(config, facts, config.seed).to(device.torch)
        model.load_state_dict(weights)
    if not (config.init_from or is_resumed):
        model.prepare(batches(data.train))
    return data, model, init_from


def read_data(dataset: Dataset, facts: dict[str, Any], device: Device) -> Data:
    """Read the training and validation images; missing files are downloaded."""
    with MemoryLimit("dataset"):
        train, valid = dataset.split("train"), dataset.split("valid")
        # Only the first process writes the record.
        description = describe(dataset, train, valid) if parallel.rank() == 0 else {}
        # The hashes of a source would keep the images of the other splits in memory.
        train, valid = (replace(source, hashes=None).to(device.torch) for source in (train, valid))
        return Data(train, valid, facts, description)


def build_observers(config: DictConfig, run: Run, data: Data) -> tuple[Observer, ...]:
    """Return the observers that write the run's files and print its progress."""
    shown = data.valid or data.train
    known = run.record.get("alarms") or {} if config.resume else {}
    return (
        CsvLog(run.folder / METRICS_CSV),
        TensorBoard(run.folder, hyperparameters(config), lambda trained: draw_pictures(trained, shown)),
        Console(),
        Alarms(known, lambda heard: run.update(alarms=heard)),
        CpuContention(run.folder),
    )


def build_trainer(
    config: DictConfig,
    data: Data,
    model: Model,
    optimizer: Callable[..., Optimizer],
    schedule: Callable[[int, int], float],
    device: Device,
    folder: Path,
    observers: Sequence[Observer] = (),
) -> Trainer:
    """Return the trainer, after the device has chosen threads and precision for the size of a step."""
    parallel.wait_for_all()
    few = data.train.first(FEW)
    with MemoryLimit("a step", device.torch, scale=min(config.batch_size, len(data.train)) / len(few.x), total=False):
        device.adapt_threads(count_multiplications(model, few) * config.batch_size)
    device.choose_precision(config.batch_size // parallel.count(), count_dense_weights(model), model.fp32_only)
    settings = {key: config[key] for key in ("epochs", "batch_size", "seed", "objective", "patience", "grad_clip")}
    return Trainer(
        model,
        data.train,
        data.valid,
        optimizer,
        schedule=schedule,
        device=device,
        folder=folder,
        facts=data.facts,
        observers=observers,
        **settings,
    )


def hyperparameters(config: DictConfig) -> dict[str, Any]:
    """Return the options and settings of a run by dotted key, for TensorBoard's HParams page."""
    plain = {key: value for key, value in to_plain(config).items() if key != "recipe"}
    choices = HydraConfig.get().runtime.choices
    options = {group: str(choices.get(group)) for group in ("model", "dataset", *PARTS)}
    settings = {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in iterate_leaves(plain)}
    return {**options, **settings}
