"""What a run minimises: the metric of one name, which must be there and a number."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from aectl.config.did_you_mean import hint
from aectl.models.base import Model
from aectl.training.model_checks import ModelError, called, check_loss, check_metrics, groups_of
from aectl.training.nonfinite import NotFinite

if TYPE_CHECKING:
    from aectl.training.trainer import Trainer


def default(model: Model, valid: int) -> str:
    """Return the model's own objective, taken on the training images where none are held out."""
    if not isinstance(model.objective, str):
        raise ModelError(f"{called(model, 'objective')} is {model.objective!r}, not the name of a metric")
    return model.objective if valid else model.objective.replace("val/", "train/", 1)


FEW = 8
"""Images that it is tried on which metrics a model has."""
ALWAYS = ("train/gradient_norm", "lr", "seconds")
"""Metrics of every epoch."""


def check(trainer: Trainer) -> None:
    """Raise ValueError, before any training, if an epoch will have no metric of the objective's name."""
    objective = trainer.objective
    if objective in ALWAYS:
        return
    if objective.startswith("val/"):
        if not len(trainer.valid_source):
            raise ValueError(f"objective: {objective} needs validation images, and none are held out")
        names = validation_names(trainer)
    else:
        names = training_names(trainer)
    if objective not in names:
        if trainer.is_default_objective and not len(trainer.valid_source):
            raise ValueError(
                f"objective: this model's own, {trainer.model.objective}, needs validation images, and none are held "
                f"out (dataset.valid=0)\n  hold some out, or choose objective= from {', '.join(names)}"
            )
        raise ValueError(
            f"objective: no metric called '{objective}'" + hint(objective, names, f"choose from {', '.join(names)}")
        )


def validation_names(trainer: Trainer) -> list[str]:
    """Return the names of what is measured on held-out images."""
    source = trainer.valid_source
    few = source.batch(torch.arange(min(FEW, len(source)), device=trainer.device.torch))
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.model.validate(few, trainer.held_out.fork("check"))
        return [f"val/{name}" for name in check_metrics(trainer.model, found)]


def training_names(trainer: Trainer) -> list[str]:
    """Return the names of what the steps of every stage log, found by one step of a copy that is not descended."""
    found: list[list[str]] = []
    for stage, _ in trainer.plan:
        source = trainer.train_source.labelled() if stage.labelled else trainer.train_source
        few = source.batch(torch.arange(min(FEW, len(source)), device=trainer.device.torch))
        model = copy.deepcopy(trainer.model).train()
        groups = groups_of(model, stage)
        is_alone = len(groups) == 1
        names = []
        for found_loss in model.losses(few, stage, trainer.held_out.fork("check")):
            loss = check_loss(model, found_loss, groups)
            names += ["loss" if is_alone else f"loss_{loss.group}", *(loss.metrics or ())]
        found.append([f"train/{name}" for name in dict.fromkeys(names)])
    return [name for name in found[0] if all(name in names for names in found)]


def value(trainer: Trainer, metrics: Mapping[str, float]) -> float:
    """Return the objective of an epoch; raises ValueError if there is none, NotFinite if it or a loss is no number."""
    objective = trainer.objective
    if objective not in metrics:
        # One of val/ was there before training began: since then no image has counted for it.
        lacking = f"no metric called '{objective}'"
        if objective.startswith("val/"):
            lacking = f"{objective} needs validation images with labels, and there are none"
        raise ValueError(f"objective: {lacking}, choose from {', '.join(metrics)}")
    for name in (objective, *(name for name in metrics if name.startswith("val/loss"))):
        if not abs(metrics[name]) < float("inf"):
            raise NotFinite(f"{name} is {metrics[name]} after epoch {trainer.epoch}")
    return metrics[objective]
