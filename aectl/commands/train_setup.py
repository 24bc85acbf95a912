"""What a run needs before its first step, built from its config."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch.nn import Parameter
from torch.optim import Optimizer

from aectl import parallel
from aectl.config import ConfigError, build, check_empty, check_named, check_signature, check_trusted, recipe, to_plain
from aectl.config.absolute_paths import make_data_paths_absolute, set_text
from aectl.config.data_paths import check_paths, data_paths
from aectl.config.schema import check_ranges
from aectl.config.untrusted_files import read_table
from aectl.data.datasets import Dataset, Source
from aectl.data.digests import describe, differences
from aectl.evaluation import references
from aectl.models.base import Model
from aectl.runs.jobs import PLAN
from aectl.runs.loading import PARTS, build_model, check_same, read_checkpoint, set_weights, settled, trusted
from aectl.runs.run import RECORD, Run, find
from aectl.system.memory_check import Room, check_training
from aectl.tensorboard.images import pictures
from aectl.tensorboard.training import TensorBoard
from aectl.training import checkpoint
from aectl.training.alarms import Alarms
from aectl.training.checkpoint import CheckpointError
from aectl.training.cpu_contention import CpuContention
from aectl.training.observers import Console, CsvLog
from aectl.training.optimizers import without_compiler
from aectl.training.step_cost import dense_weights, multiplications
from aectl.training.trainer import Observer, StageChanged, Trainer
from aectl.training.validation import batches

log = logging.getLogger("aectl")

FEW = 8
"""Images that it is tried on how much a step computes."""


@dataclass(frozen=True)
class Splits:
    """The images to train on and to hold out, and the description of all splits for the run's record."""

    train: Source
    valid: Source
    description: dict[str, Any]


Images = tuple[dict[str, Any], Callable[[], Splits]]
"""What a model must know of a data set, and a function that reads or fetches the images to train on and to hold out."""


def open_images(config: DictConfig, device: torch.device) -> Images:
    """Return the images of a config; none are fetched yet, so that errors of the config are found before."""
    with Room("dataset"):
        dataset: Dataset = build(config.dataset, "dataset")

    @cache
    def read() -> Splits:
        with Room("dataset"):
            train, valid = dataset.split("train"), dataset.split("valid")
            # Of several processes the first one writes the record.
            description = describe(dataset, train, valid) if parallel.rank() == 0 else {}
            # With its hashes a source would hold on to the images of the other splits.
            train, valid = (replace(source, hashes=None).to(device) for source in (train, valid))
            return Splits(train, valid, description)

    return {"shape": list(dataset.shape), "classes": dataset.classes}, read


def check(config: DictConfig) -> None:
    """Raise ConfigError for ranges, names and types that cannot work, before anything is built."""
    check_ranges(config)
    references.check(to_plain(config.get("reference") or {}))
    if config.resume:
        trust = trusted(config)
        check_trusted(config, trust)
        check_stored_paths(config, Run(Path(config.resume)), trust)
        config.dataset = settled(config.dataset)
    elif config.init_from:
        set_text(config, "init_from", str(find(config.init_from).absolute()))
    make_data_paths_absolute(config)
    check_named(config, ("device", "dataset", "model", "optimizer"))
    filled = recipe.filled_in(config)
    for group in ("device", "dataset", "model", *PARTS, "optimizer", "schedule"):
        check_signature(filled.get(group), group)
        check_empty(filled.get(group), group)


def check_stored_paths(config: DictConfig, run: Run, trust: list[str]) -> None:
    """Raise ConfigError if a resumed run would read own data, or another run, that this user has not typed."""
    paths, record = data_paths(config.dataset, trust), run.record
    if config.init_from and config.init_from != "latest" and is_unsaved(run):
        named = (record.get("init_from") or {}).get("run") or config.init_from
        # Of a run that is not there, whoever loads its weights says so.
        with contextlib.suppress(ConfigError):
            paths["init_from"] = str(find(named).absolute())
    check_paths(paths, run.folder, record.get("own_paths"), trust)


@dataclass(frozen=True)
class Prepared:
    """A trainer, and what the run's record says of where its images and first weights come from."""

    trainer: Trainer
    data: dict[str, Any]
    init_from: dict[str, str] | None = None


def prepare(config: DictConfig, run: Run) -> Prepared:
    """Build everything that a run needs; raises ValueErrors of the config and its parts before anything is written.

    What the parts refuse is raised before any image is fetched.
    """
    device = build(config.device, "device")
    device.apply()
    facts, read = open_images(config, device.torch)
    model = build_model(config, facts, config.seed)
    check_training(model, device.torch)
    model.to(device.torch)
    make_optimizer, schedule = optimizer(config), build(config.schedule, "schedule")
    goes_on = bool(config.resume) and not is_unsaved(run)
    init_from = None
    if config.init_from and not goes_on:
        init_from = load_first_weights(model, config, run)
    splits = read()
    if config.resume and config.data == "same":
        check_same(run, splits.description)
    train_source, valid_source = splits.train, splits.valid
    if recipe.fill_in(config, len(train_source), facts["shape"]):
        weights = model.state_dict()
        model = build_model(config, facts, config.seed).to(device.torch)
        model.load_state_dict(weights)
    if not (config.init_from or goes_on):
        model.prepare(batches(train_source))
    parallel.meet()
    few = train_source.batch(torch.arange(min(FEW, len(train_source)), device=device.torch))
    with Room("a step", device.torch, scale=min(config.batch_size, len(train_source)) / len(few.x), total=False):
        device.suit(multiplications(model, few) * config.batch_size)
    device.reduce(config.batch_size // parallel.count(), dense_weights(model), model.fp32_only)
    settings = {key: config[key] for key in ("epochs", "batch_size", "seed", "objective", "patience", "grad_clip")}
    trainer = Trainer(
        model,
        train_source,
        valid_source,
        make_optimizer,
        schedule=schedule,
        device=device,
        folder=run.folder / "checkpoints",
        facts=facts,
        observers=observers(config, run, valid_source or train_source) if parallel.rank() == 0 else (),
        **settings,
    )
    if goes_on:
        resume(trainer, run, config)
    elif config.resume:
        log.info("it was stopped before its first checkpoint: it begins anew, with the same seed")
    if not goes_on and parallel.rank() == 0:
        log.info(
            "%s training images in batches of %d: %s steps an epoch, epochs=%d%s",
            f"{len(train_source):,}",
            trainer.batch_size,
            f"{trainer.steps_per_epoch:,}",
            config.epochs,
            "" if trainer.epochs == config.epochs else f" ({trainer.epochs} in all stages)",
        )
    return Prepared(trainer, splits.description, init_from)


def load_first_weights(model: Model, config: DictConfig, run: Run) -> dict[str, str]:
    """Load the weights that `init_from` names into a model; returns the run's folder and a digest of its weights.

    A resumed run takes those that it started from, and raises ConfigError if they are gone or have changed.
    """
    then = run.record.get("init_from") or {} if config.resume else {}
    if config.resume and not then and config.init_from == "latest":
        raise ConfigError(f"{run.folder} does not say which run init_from=latest was: type its command again")
    try:
        source = Run(find(then.get("run") or config.init_from).absolute())
        weights = read_checkpoint(source, "best", "cpu")["model"]
    except (ConfigError, CheckpointError) as error:
        raise ConfigError(f"init_from: {error}") from error
    found = checkpoint.digest(weights)
    if then and then.get("weights") != found:
        raise ConfigError(
            f"init_from: the weights of {source.folder} have changed since this run started from them\n"
            "  type the run's command again to start from the new ones"
        )
    set_weights(model, weights, source.checkpoint("best"))
    return {"run": str(source.folder), "weights": found}


def check_other_jobs(config: DictConfig, run: Run, data: Mapping[str, Any]) -> None:
    """Raise ConfigError if a job of a sweep has other data than an earlier job of the same `dataset`."""
    if not (run.folder.parent / PLAN).is_file():
        return
    for other in map(Run, sorted(path.parent for path in run.folder.parent.glob(f"*/{RECORD}"))):
        if other.folder.name == run.folder.name or not (what := differences(other.record.get("data") or {}, data)):
            continue
        if to_plain(other.config(trusted(config)).get("dataset")) == to_plain(config.dataset):
            raise ConfigError(
                f"the data have changed since {other.folder.name} of this sweep was trained: {what}\n"
                "  its jobs would not be comparable: start a new sweep"
            )


def is_unsaved(run: Run) -> bool:
    """Return whether a run was stopped before it wrote its first checkpoint, so that to begin anew loses nothing."""
    if checkpoint.exists(run.folder / "checkpoints") or run.record.get("status") in ("done", "interrupted"):
        return False
    path = run.folder / "metrics.csv"
    # Where more epochs are counted there were checkpoints, and somebody must know where they are.
    return not path.is_file() or len(read_table(path)[1]) <= 1


def observers(config: DictConfig, run: Run, source: Source) -> tuple[Observer, ...]:
    """Return what writes the run's numbers, its pictures of a source and its lines on the terminal."""
    board = TensorBoard(run.folder, flatten(config), lambda trained: pictures(trained, source))
    known = run.record.get("alarms") or {} if config.resume else {}
    alarms = Alarms(known, lambda heard: run.update(alarms=heard))
    return (CsvLog(run.folder / "metrics.csv"), board, Console(), alarms, CpuContention(run.folder))


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

    A run that was killed between its last checkpoint and its record has only its end left to write. Where the last
    checkpoint is damaged, the one before is gone on from.
    """
    state, wrong = checkpoint.newest(trainer.folder, trainer.device.torch)
    try:
        trainer.restore(state, is_last_spoilt=bool(wrong))
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
    if wrong:
        log.warning("%s: going on from the one before, after epoch %d; nothing else is lost", wrong, trainer.epoch)
    log.info("resuming after %d of %d epochs", trainer.epoch, trainer.epochs)


def flatten(config: DictConfig) -> dict[str, Any]:
    """Return the config's leaves by dotted key, for HParams."""

    def leaves(node: Any, path: str) -> dict[str, Any]:
        if isinstance(node, dict):
            return {k: v for key, value in node.items() for k, v in leaves(value, f"{path}{key}.").items()}
        return {path[:-1]: node if isinstance(node, (bool, int, float, str)) else str(node)}

    plain = {key: value for key, value in to_plain(config).items() if key != "recipe"}
    choices = HydraConfig.get().runtime.choices
    names = {group: str(choices.get(group)) for group in ("model", "dataset", *PARTS)}
    return {**names, **leaves(plain, "")}
