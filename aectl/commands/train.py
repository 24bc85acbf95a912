"""aectl train: from a config to a trained run in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from aectl.commands.train_checks import check_config, check_sweep_data
from aectl.commands.train_lock import RunLockedError, adopt_hydra_folder, discard_start, explain_write_errors, lock_run
from aectl.commands.train_resume import has_progress, resume_trainer
from aectl.commands.train_setup import (
    Data,
    build_data_and_model,
    build_observers,
    build_optimizer,
    build_trainer,
)
from aectl.commands.train_summary import summarise_training
from aectl.config import ConfigError, build, recipe, to_plain
from aectl.config.absolute_paths import store_paths
from aectl.config.data_paths import sign_paths
from aectl.config.folder_names import own_hydra_folder
from aectl.config.schema import parse_seconds
from aectl.metric import find_metric
from aectl.parallel import Lost
from aectl.parallel.process_group import lead
from aectl.runs.loading import PARTS, build_device
from aectl.runs.run import RECORD, Run
from aectl.system.file_lock import FileLock
from aectl.system.machine import PROCESS_BYTES, launched_processes, memory_bytes
from aectl.system.memory_check import format_bytes
from aectl.training.stop_signals import Interruption
from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")


class Interrupted(SystemExit):
    """Training was stopped by a signal; the exit code is the shell's for that signal."""


def run(config: DictConfig) -> float:
    """Train in Hydra's output folder and return the objective; a run that cannot start leaves no files."""
    run = Run(Path(HydraConfig.get().runtime.output_dir))
    if HydraConfig.get().output_subdir != own_hydra_folder():
        raise ConfigError("hydra.output_subdir: a run's config is in its .hydra folder, remove the key")
    with discard_on_error(run):
        check_config(config)
        processes = count_processes(config)
    words = {
        "config": OmegaConf.to_container(config, resolve=True),
        "folder": str(run.folder),
        "imports_here": HydraConfig.get().runtime.cwd in sys.path,
    }
    try:
        with lead(processes, json.dumps(words)):
            return train(config, run)
    except Lost as error:
        if (run.folder / RECORD).is_file():
            run.update(error=str(error))
        raise


def train(config: DictConfig, run: Run) -> float:
    """Train in the run's folder and return the objective; a run that cannot start leaves no files."""
    with discard_on_error(run), lock_until_error(config, run) as lock:
        open_keys = recipe.list_open_keys(config)
        is_resumed = has_progress(config, run)
        device = build_device(config)
        optimizer, schedule = build_optimizer(config), build(config.schedule, "schedule")
        data, model, init_from = build_data_and_model(config, run, device, is_resumed=is_resumed)
        observers = build_observers(config, run, data)
        folder = run.folder / "checkpoints"
        trainer = build_trainer(config, data, model, optimizer, schedule, device, folder, observers)
        if is_resumed:
            resume_trainer(trainer, run, config)
        else:
            log_start(config, trainer)
        check_sweep_data(config, run, data.description)
        limit = parse_seconds(config.max_time) if config.max_time else None
        with explain_write_errors(run):
            record_start(config, run, trainer, data, init_from, open_keys)
    with explain_write_errors(run):
        with record_error(run, lock), Interruption(limit) as interruption:
            reason = trainer.fit(lambda: interruption.reason)
        return conclude(trainer, run, reason)


@contextlib.contextmanager
def discard_on_error(run: Run) -> Iterator[None]:
    """Remove the run's folder if the block raises before training starts."""
    try:
        yield
    except BaseException as error:
        discard_start(run, HydraConfig.get().output_subdir, not isinstance(error, RunLockedError))
        raise


@contextlib.contextmanager
def lock_until_error(config: DictConfig, run: Run) -> Iterator[FileLock]:
    """Lock the run's folder; the lock is released if the block raises, and stays held after it."""
    lock = lock_run(config, run)
    try:
        yield lock
    except BaseException:
        # A process that keeps running, such as a notebook, can then resume the run.
        lock.release()
        raise


def log_start(config: DictConfig, trainer: Trainer) -> None:
    """Log the length of a new run."""
    if config.resume:
        log.info("it was stopped before its first checkpoint: starting again with the same seed")
    log.info(
        "%s training images in batches of %d: %s steps an epoch, epochs=%d%s",
        f"{len(trainer.train_source):,}",
        trainer.batch_size,
        f"{trainer.steps_per_epoch:,}",
        config.epochs,
        "" if trainer.epochs == config.epochs else f" ({trainer.epochs} in all stages)",
    )


def record_start(
    config: DictConfig,
    run: Run,
    trainer: Trainer,
    data: Data,
    init_from: dict[str, str] | None,
    open_keys: Sequence[str],
) -> None:
    """Write the config and the record of a run that starts or resumes.

    `open_keys` are the keys whose values the model's recipe has chosen.
    """
    hydra = HydraConfig.get()
    if trainer.device.precision != "fp32":
        log.info("precision %s", trainer.device.precision)
    own_paths = sign_paths(config)
    if hydra.output_subdir:
        store_paths(config, run.folder / hydra.output_subdir / "config.yaml")
    adopt_hydra_folder(run, hydra.output_subdir)
    run.record_start(
        config=config,
        choices={group: str(hydra.runtime.choices.get(group)) for group in ("model", "dataset", *PARTS)},
        overrides=list(hydra.overrides.task),
        device=trainer.device.describe(),
        goal={
            "epochs": trainer.epochs,
            "objective": trainer.objective,
            "meaning": find_metric(trainer.metric_descriptions, trainer.objective.partition("/")[2]).description,
            "metric_settings": {name: list(keys) for name, keys in trainer.model.metric_settings.items()},
        },
        data=data.description,
        init_from=init_from,
        chosen={key: to_plain(OmegaConf.select(config, key)) for key in open_keys},
        own_paths=own_paths,
    )


@contextlib.contextmanager
def record_error(run: Run, lock: FileLock) -> Iterator[None]:
    """Release the run's lock after the block, and write an error that it raises into the record."""
    try:
        yield
    except BaseException as error:
        # This also fails on a full disk or in a removed folder; the first error is the one to report.
        with contextlib.suppress(OSError, ConfigError):
            run.record_end("failed", error=str(error) or type(error).__name__)
        raise
    finally:
        lock.release()


def count_processes(config: DictConfig) -> int:
    """Return how many processes share each batch; raises ConfigError if torchrun and the config disagree."""
    count, started = config.device.get("count"), launched_processes()
    if started > 1 and count not in (None, started):
        raise ConfigError(f"device.count={count}, but torchrun has started {started} processes")
    if started > 1 or not count:
        return max(started, 1)
    batch_size = recipe.with_recipe(config).batch_size
    if count > batch_size:
        raise ConfigError(f"device.count: {count:,} processes cannot share a batch of {batch_size:,} images")
    if count * PROCESS_BYTES > memory_bytes():
        raise ConfigError(
            f"device.count: {count:,} processes need {format_bytes(count * PROCESS_BYTES)}, "
            f"this machine has {format_bytes(memory_bytes())}"
        )
    return count


def conclude(trainer: Trainer, run: Run, reason: str | None) -> float:
    """Record the end of training and log the commands to type next."""
    value = trainer.best_value if trainer.best_epoch else math.nan
    objective = {"name": trainer.objective, "value": None if math.isnan(value) else value, "epoch": trainer.best_epoch}
    # The record is written last: after a kill in between, resuming repeats these steps.
    run.add_metrics(train={"epoch": trainer.epoch, **trainer.metrics}, objective=objective)
    run.record_end("interrupted" if reason else "done", objective=objective, epochs=trainer.epoch)
    # Not Path.cwd(), which `hydra.job.chdir=true` has changed.
    here = Path(HydraConfig.get().runtime.cwd)
    path = run.folder.relative_to(here) if run.folder.is_relative_to(here) else run.folder
    folder = shlex.quote(str(path))
    if reason:
        log.info("stopped by %s in epoch %d; resume it with", reason, trainer.epoch + 1)
        log.info("  aectl train resume=%s", folder)
        codes = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138}
        if reason in codes:
            raise Interrupted(codes[reason])
        return value
    log.info("")
    if trainer.epoch < trainer.epochs:
        log.info("stopped early: %s has not improved for %d epochs", trainer.objective, trainer.patience)
    for line in summarise_training(trainer, run):
        log.info("%s", line)
    log.info("run  %s", folder)
    log.info("next aectl eval run=%s", folder)
    log.info("     aectl sample run=%s", folder)
    # The folder above: of a folder that is itself the run, the HParams page shows no metrics.
    log.info("     tensorboard --logdir %s", shlex.quote(str(path.parent)))
    return value
