"""What the trainer is given by a model: stages, groups, losses and metrics, each checked where it is taken.

Built-in models pass; the checks name the method of one's own model, and what it gave instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aectl.models.base import Group, Loss, Mean, Model, Stage

LARGEST = 2**31
"""Of epochs, and of images that a mean is over."""


class ModelError(ValueError):
    """A model gave the trainer something that it cannot train by; the message names the method."""


def stages_of(model: Model) -> list[Stage]:
    """Return the model's stages; raises ModelError unless there are some, each with a name and epochs from 1 on."""
    found = list(model.stages())
    if not found:
        raise ModelError(f"{called(model, 'stages')} yields no stage to train")
    for stage in found:
        if not isinstance(stage, Stage):
            raise ModelError(f"{called(model, 'stages')} yields {kind_of(stage)}, not an aectl.models.base.Stage")
        if not isinstance(stage.name, str) or not stage.name.isprintable():
            raise ModelError(f"{called(model, 'stages')}: a stage's name is {stage.name!r}, not a text of one line")
        if stage.epochs is not None and not (type(stage.epochs) is int and 0 <= stage.epochs < LARGEST):
            raise ModelError(f"{called(model, 'stages')}: stage '{stage.name}' has epochs={stage.epochs!r}")
    return found


def groups_of(model: Model, stage: Stage) -> dict[str, Group]:
    """Return the groups of a stage by name; raises ModelError unless each is a Group of the model's parameters."""
    found = model.groups(stage)
    if not isinstance(found, Mapping) or not found:
        raise ModelError(f"{called(model, 'groups')} returned {kind_of(found)}, not groups by their names")
    checked = {}
    for name, group in found.items():
        if not isinstance(name, str) or not isinstance(group, Group):
            raise ModelError(f"{called(model, 'groups')} returned {kind_of(group)} for {name!r}, not a Group")
        if not isinstance(group.overrides, Mapping):
            raise ModelError(f"{called(model, 'groups')}: the overrides of '{name}' are {kind_of(group.overrides)}")
        try:
            params = list(group.params)
        except TypeError:
            raise ModelError(f"{called(model, 'groups')}: the params of '{name}' are {kind_of(group.params)}") from None
        if not all(isinstance(one, Tensor) and one.is_leaf for one in params):
            raise ModelError(f"{called(model, 'groups')}: '{name}' has params that are no nn.Parameter")
        checked[name] = Group(params, group.overrides)
    return checked


def check_loss(model: Model, loss: Any, groups: Mapping[str, object]) -> Loss:
    """Return a loss whose value and metrics are scalars; raises ModelError for what is none, or of no group."""
    if not isinstance(loss, Loss):
        raise ModelError(f"{called(model, 'losses')} yields {kind_of(loss)}, not an aectl.models.Loss")
    if loss.group not in groups:
        names = ", ".join(groups)
        raise ModelError(f"{called(model, 'losses')}: no group called {loss.group!r}, there are: {names}")
    if loss.metrics is not None and not isinstance(loss.metrics, Mapping):
        raise ModelError(f"{called(model, 'losses')}: the metrics of a loss are {kind_of(loss.metrics)}")
    method = called(model, "losses")
    value = as_scalar(loss.value, f"{method}: a loss")
    metrics = {name: as_scalar(one, f"{method}: {name}") for name, one in (loss.metrics or {}).items()}
    return Loss(value, loss.group, metrics)


def check_metrics(model: Model, found: Any) -> dict[str, tuple[Tensor, int | None]]:
    """Return the metrics of `validate` by name, each with the images it is over, None for all of the batch.

    Raises ModelError for what is no scalar, or a mean over no number of images.
    """
    method = called(model, "validate")
    if not isinstance(found, Mapping):
        raise ModelError(f"{method} returned {kind_of(found)}, not metrics by their names")
    checked: dict[str, tuple[Tensor, int | None]] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise ModelError(f"{method}: the name of a metric is {name!r}, not a text")
        count = value.count if isinstance(value, Mean) else None
        if count is not None and not (type(count) is int and 0 <= count < LARGEST):
            raise ModelError(f"{method}: {name} is a mean over {kind_of(count)}, not over a number of images")
        if isinstance(value, Mean) and count is None:
            raise ModelError(f"{method}: {name} is a mean over None, not over a number of images")
        checked[name] = (as_scalar(value.value if isinstance(value, Mean) else value, f"{method}: {name}"), count)
    return checked


def as_scalar(value: Any, what: str) -> Tensor:
    """Return a tensor of one real number without dimensions; raises ModelError, naming it, for anything else."""
    if not isinstance(value, Tensor):
        raise ModelError(f"{what} is {kind_of(value)}, not a tensor of one number")
    if value.numel() != 1 or value.is_complex() or value.layout is not torch.strided or value.is_meta:
        raise ModelError(f"{what} is {kind_of(value)}, not one number")
    return value if value.dim() == 0 else value.reshape(())


def called(model: Model, method: str) -> str:
    """Return how a method of a model is called in messages."""
    return f"model: {type(model).__name__}.{method}"


def kind_of(value: Any) -> str:
    """Return what a value is, in a few words: its class, and of a tensor the type and shape."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {value!r:.40}".replace("\n", " ")
