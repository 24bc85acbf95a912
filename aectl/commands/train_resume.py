"""Where a run starts: from its own last checkpoint, or from the weights of another run."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from aectl.config import ConfigError
from aectl.models.base import Model
from aectl.runs.loading import read_checkpoint, set_weights
from aectl.runs.run import Run, find_run
from aectl.training import checkpoint
from aectl.training.checkpoint import CheckpointError
from aectl.training.metrics_csv import METRICS_CSV, read_metrics_csv
from aectl.training.trainer import StageChanged, Trainer

log = logging.getLogger("aectl")


def has_progress(config: DictConfig, run: Run) -> bool:
    """Return whether the run is resumed and has a checkpoint to resume from."""
    return bool(config.resume) and not is_unsaved(run)


def is_unsaved(run: Run) -> bool:
    """Return whether a run was stopped before its first checkpoint, so that starting again loses nothing."""
    if checkpoint.exists(run.folder / "checkpoints") or run.record.get("status") in ("done", "interrupted"):
        return False
    path = run.folder / METRICS_CSV
    # With two epochs or more there were checkpoints: their loss must be reported.
    return not path.is_file() or len(read_metrics_csv(path)[1]) <= 1


def resume_trainer(trainer: Trainer, run: Run, config: DictConfig) -> None:
    """Restore the trainer from the run's last checkpoint; raises ConfigError if there is nothing left to train.

    A run that was killed between its last checkpoint and its record has only the record left to write. If the last
    checkpoint is damaged, the one before it is restored.
    """
    state, damage = checkpoint.load_newest(trainer.folder, trainer.device.torch)
    try:
        trainer.restore(state, is_last_damaged=bool(damage))
    except StageChanged as error:
        raise ConfigError(f"epochs: {error}") from error
    except (KeyError, RuntimeError, ValueError) as error:
        path = run.checkpoint_path("last")
        raise CheckpointError(
            f"{path} does not fit this run, its data or this device ({type(error).__name__})"
        ) from error
    is_recorded = run.record.get("status") == "done"
    if is_recorded and trainer.has_stalled() and trainer.epoch < trainer.epochs:
        raise ConfigError(
            f"{run.folder} stopped early after {trainer.epoch} epochs; resume with a larger patience= to continue"
        )
    if is_recorded and trainer.epoch >= trainer.epochs:
        raise ConfigError(
            f"{run.folder} has trained its {trainer.epoch} epochs; epochs={2 * config.epochs} would extend it"
        )
    if state["epochs"] != trainer.epochs and trainer.schedule_changes(state["epochs"]):
        log.warning(
            "the schedule depends on the number of epochs: with %d instead of %d the learning rate jumps, and the "
            "result is not that of %d epochs in one go",
            *(trainer.epochs, state["epochs"], trainer.epochs),
        )
    if damage:
        log.warning("%s: going on from the one before, after epoch %d; nothing else is lost", damage, trainer.epoch)
    log.info("resuming after %d of %d epochs", trainer.epoch, trainer.epochs)


def load_initial_weights(model: Model, config: DictConfig, run: Run) -> dict[str, str]:
    """Load the weights that `init_from` names into a model; returns that run's folder and a digest of its weights.

    A resumed run loads the weights that it started from, and raises ConfigError if they are missing or have changed.
    """
    recorded = run.record.get("init_from") or {} if config.resume else {}
    if config.resume and not recorded and config.init_from == "latest":
        raise ConfigError(f"{run.folder} does not say which run init_from=latest was: run its command again")
    try:
        source = Run(find_run(recorded.get("run") or config.init_from).absolute())
        weights = read_checkpoint(source, "best", "cpu")["model"]
    except (ConfigError, CheckpointError) as error:
        raise ConfigError(f"init_from: {error}") from error
    digest = checkpoint.hash_weights(weights)
    if recorded and recorded.get("weights") != digest:
        raise ConfigError(
            f"init_from: the weights of {source.folder} have changed since this run started from them\n"
            "  type the run's command again to start from the new ones"
        )
    set_weights(model, weights, source.checkpoint_path("best"))
    return {"run": str(source.folder), "weights": digest}
