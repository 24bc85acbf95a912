"""What a run needs before its first step, built from its config."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.nn import Parameter
from torch.optim import Optimizer

from aectl import parallel
from aectl.config import ConfigError, build, check_signature, check_trusted, to_plain
from aectl.config.schema import check_ranges
from aectl.data.datasets import Source
from aectl.evaluation import published
from aectl.figures.live import pictures
from aectl.loading import PARTS, build_model, read_checkpoint, set_weights, trusted
from aectl.run import RECORD, Run, find
from aectl.training import checkpoint
from aectl.training.board import TensorBoard
from aectl.training.checkpoint import CheckpointError
from aectl.training.observers import Console, CsvLog, Observer
from aectl.training.optimizers import without_compiler
from aectl.training.trainer import StageChanged, Trainer
from aectl.training.validation import batches
from aectl.training.work import dense_weights, multiplications

log = logging.getLogger("aectl")

FEW = 8
"""Images that it is tried on how much a step computes."""


class Busy(ConfigError):
    """A run that another process trains: nothing in its folder may be touched."""


Sources = Callable[[DictConfig, torch.device], tuple[dict[str, Any], Source, Source]]
"""Gives what a model must know of a config's images, those to train on, and those held out."""


def read(config: DictConfig, device: torch.device) -> tuple[dict[str, Any], Source, Source]:
    """Return the images of a config."""
    dataset = build(config.dataset, "dataset")
    facts = {"shape": list(dataset.shape), "classes": dataset.classes}
    return facts, dataset.split("train", device), dataset.split("valid", device)


def check(config: DictConfig) -> None:
    """Raise ConfigError for ranges, names and types that cannot work, before anything is built."""
    check_ranges(config)
    published.check(to_plain(config.get("reference") or {}))
    if config.resume:
        check_trusted(config, trusted(config))
    for group in ("device", "dataset", "model", *PARTS, "optimizer", "schedule"):
        check_signature(config.get(group), group)


def claim(config: DictConfig, run: Run) -> FileLock:
    """Return the lock of the run's folder, held; raises ConfigError if it is another run's or being trained."""
    if (run.folder / "run.json").is_file() and not config.resume:
        raise ConfigError(f"{run.folder} holds a run already; aectl train resume={run.folder} goes on with it")
    lock = FileLock(run.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = run.record.get("pid") if (run.folder / RECORD).is_file() else "that has only begun"
        raise Busy(f"{run.folder} is being trained by process {pid}") from None
    return lock


def prepare(config: DictConfig, run: Run, sources: Sources = read) -> Trainer:
    """Build everything that a run needs; raises ValueErrors of the config and its parts before anything is written."""
    device = build(config.device, "device")
    device.apply()
    facts, train_source, valid_source = sources(config, device.torch)
    model = build_model(config, facts, config.seed).to(device.torch)
    if config.init_from and not config.resume:
        source = Run(find(config.init_from))
        set_weights(model, read_checkpoint(source, "best", "cpu")["model"], source.checkpoint("best"))
    elif not config.resume:
        model.prepare(batches(train_source))
    parallel.meet()
    few = train_source.batch(torch.arange(min(FEW, len(train_source)), device=device.torch))
    device.suit(multiplications(model, few) * config.batch_size)
    device.reduce(config.batch_size // parallel.count(), dense_weights(model), model.fp32_only)
    settings = {key: config[key] for key in ("epochs", "batch_size", "seed", "objective", "patience", "grad_clip")}
    trainer = Trainer(
        model,
        train_source,
        valid_source,
        optimizer(config),
        schedule=build(config.schedule, "schedule"),
        device=device,
        folder=run.folder / "checkpoints",
        facts=facts,
        observers=observers(config, run, valid_source or train_source) if parallel.rank() == 0 else (),
        **settings,
    )
    if config.resume:
        resume(trainer, run, config)
    return trainer


def observers(config: DictConfig, run: Run, source: Source) -> tuple[Observer, ...]:
    """Return what writes the run's numbers, its pictures of a source and its lines on the terminal."""
    board = TensorBoard(run.folder, flatten(config), lambda trained: pictures(trained, source))
    return (CsvLog(run.folder / "metrics.csv"), board, Console())


def optimizer(config: DictConfig) -> Callable[..., Optimizer]:
    """Return what makes optimizers, tried out on one weight; raises ConfigError if it refuses its settings."""
    without_compiler()
    make = build(config.optimizer, "optimizer")
    try:
        make([Parameter(torch.zeros(1))])
    except ValueError as error:
        raise ConfigError(f"optimizer: {error}") from error
    return make


def resume(trainer: Trainer, run: Run, config: DictConfig) -> None:
    """Bring the trainer to where the run stopped; raises ConfigError if there is nothing left to do.

    A run that was killed between its last checkpoint and its record has only its end left to write.
    """
    state = checkpoint.load(run.checkpoint("last"), trainer.device.torch)
    try:
        trainer.restore(state)
    except StageChanged as error:
        raise ConfigError(f"epochs: {error}") from error
    except (KeyError, RuntimeError, ValueError) as error:
        path = run.checkpoint("last")
        raise CheckpointError(
            f"{path} does not fit this run, its data or this device ({type(error).__name__})"
        ) from error
    is_told = run.record.get("status") == "done"
    if is_told and trainer.has_stalled() and trainer.epoch < trainer.epochs:
        raise ConfigError(f"{run.folder} stopped early after {trainer.epoch} epochs; a larger patience= lets it go on")
    if is_told and trainer.epoch >= trainer.epochs:
        raise ConfigError(
            f"{run.folder} has trained its {trainer.epoch} epochs; epochs={2 * config.epochs} would extend it"
        )
    if state["epochs"] != trainer.epochs and trainer.schedule_changes(state["epochs"]):
        log.warning(
            "the schedule depends on the number of epochs: with %d instead of %d the learning rate jumps, and the "
            "result is not that of %d epochs in one go",
            *(trainer.epochs, state["epochs"], trainer.epochs),
        )
    log.info("resuming after %d of %d epochs", trainer.epoch, trainer.epochs)


def flatten(config: DictConfig) -> dict[str, Any]:
    """Return the config's leaves by dotted key, for HParams."""

    def leaves(node: Any, path: str) -> dict[str, Any]:
        if isinstance(node, dict):
            return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}{key}.").items()}
        return {path[:-1]: node if isinstance(node, (bool, int, float, str)) else str(node)}

    plain = OmegaConf.to_container(config, resolve=True)
    choices = HydraConfig.get().runtime.choices
    names = {group: str(choices.get(group)) for group in ("model", "dataset", *PARTS)}
    return {**names, **leaves(plain, "")}


def discard(run: Run, output_subdir: str | None) -> None:
    """Remove what a start that never began left in its folder, and folders that are empty then, but not the present."""
    begun = (run.folder / "run.json").is_file()
    if output_subdir and not (begun and output_subdir == ".hydra"):
        shutil.rmtree(run.folder / output_subdir, ignore_errors=True)
    if begun or not run.folder.is_dir():
        return
    for name in ("train.log", ".lock"):
        (run.folder / name).unlink(missing_ok=True)
    here = Path.cwd()
    for folder in [run.folder, *list(run.folder.parents)[:2]]:
        if folder in (here, *here.parents) or any(folder.iterdir()):
            return
        folder.rmdir()
