"""What a run minimises: the metric of one name, which must be there and a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from aectl.config.did_you_mean import hint
from aectl.models.base import Model
from aectl.training.finite import NotFinite

if TYPE_CHECKING:
    from aectl.training.trainer import Trainer


def default(model: Model, valid: int) -> str:
    """Return the model's own objective, taken on the training images where none are held out."""
    return model.objective if valid else model.objective.replace("val/", "train/", 1)


def check(trainer: Trainer) -> None:
    """Raise ValueError, before any training, if validation gives no metric of the objective's name."""
    objective, source = trainer.objective, trainer.valid_source
    if not objective.startswith("val/"):
        return
    if not len(source):
        raise ValueError(f"objective: {objective} needs validation images, and none are held out")
    few = source.batch(torch.arange(min(8, len(source)), device=trainer.device.torch))
    trainer.model.eval()
    with torch.no_grad():
        names = [f"val/{name}" for name in trainer.model.validate(few, trainer.held_out.fork("check"))]
    if objective not in names:
        raise ValueError(
            f"objective: no metric called '{objective}'" + hint(objective, names, f"choose from {', '.join(names)}")
        )


def value(trainer: Trainer, metrics: Mapping[str, float]) -> float:
    """Return the objective of an epoch; raises ValueError if there is none, NotFinite if it or a loss is no number."""
    objective = trainer.objective
    if objective not in metrics:
        # One of val/ was there before training began: since then no image has counted for it.
        lacking = f"no metric called '{objective}'"
        if objective.startswith("val/"):
            lacking = f"{objective} needs validation images with labels, and there are none"
        elif not len(trainer.valid_source):
            lacking = "this model's own needs validation images, and none are held out (dataset.valid=0)"
        raise ValueError(f"objective: {lacking}, choose from {', '.join(metrics)}")
    for name in (objective, *(name for name in metrics if name.startswith("val/loss"))):
        if not abs(metrics[name]) < float("inf"):
            raise NotFinite(f"{name} is {metrics[name]} after epoch {trainer.epoch}")
    return metrics[objective]
