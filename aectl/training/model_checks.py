"""Checks of a model's stages, groups, losses and metrics.

They help the authors of custom models: each message names the method and what it returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aectl.metric import Metric
from aectl.models.base import Group, Loss, Mean, Model, Stage, collect_metrics

MAX_COUNT = 2**31
"""Bound of the epochs of a stage and of the images in a mean."""


class ModelError(ValueError):
    """A method of the model returned something invalid; the message names the method."""


def stages_of(model: Model) -> list[Stage]:
    """Return the model's stages; raises ModelError if there is none, or one has no valid name or epochs."""
    found = list(model.stages())
    if not found:
        raise ModelError(f"{describe_method(model, 'stages')} yields no stage to train")
    for stage in found:
        if not isinstance(stage, Stage):
            raise ModelError(
                f"{describe_method(model, 'stages')} yields {describe_value(stage)}, not an aectl.models.base.Stage"
            )
        if not isinstance(stage.name, str) or not stage.name.isprintable():
            raise ModelError(
                f"{describe_method(model, 'stages')}: a stage's name is {stage.name!r}, not a string on one line"
            )
        if stage.epochs is not None and not (type(stage.epochs) is int and 0 <= stage.epochs < MAX_COUNT):
            raise ModelError(f"{describe_method(model, 'stages')}: stage '{stage.name}' has epochs={stage.epochs!r}")
    return found


def check_descriptions(model: Model) -> tuple[Metric, ...]:
    """Return the descriptions of the model's metrics; raises ModelError if one of them is not a Metric."""
    try:
        return collect_metrics(type(model))
    except TypeError as error:
        raise ModelError(str(error)) from None


def groups_of(model: Model, stage: Stage) -> dict[str, Group]:
    """Return the groups of a stage by name; raises ModelError unless each is a Group of leaf tensors."""
    found = model.groups(stage)
    if not isinstance(found, Mapping) or not found:
        raise ModelError(f"{describe_method(model, 'groups')} returned {describe_value(found)}, not a dict of groups")
    checked = {}
    for name, group in found.items():
        if not isinstance(name, str) or not isinstance(group, Group):
            raise ModelError(
                f"{describe_method(model, 'groups')} returned {describe_value(group)} for {name!r}, not a Group"
            )
        if not isinstance(group.overrides, Mapping):
            raise ModelError(
                f"{describe_method(model, 'groups')}: the overrides of '{name}' are {describe_value(group.overrides)}"
            )
        try:
            params = list(group.params)
        except TypeError:
            raise ModelError(
                f"{describe_method(model, 'groups')}: the params of '{name}' are {describe_value(group.params)}"
            ) from None
        if not all(isinstance(one, Tensor) and one.is_leaf for one in params):
            raise ModelError(f"{describe_method(model, 'groups')}: '{name}' has params that are not nn.Parameter")
        checked[name] = Group(params, group.overrides)
    return checked


def check_loss(model: Model, loss: Any, groups: Mapping[str, object]) -> Loss:
    """Return a loss with its value and metrics as scalars; raises ModelError if it is invalid."""
    if not isinstance(loss, Loss):
        raise ModelError(f"{describe_method(model, 'losses')} yields {describe_value(loss)}, not an aectl.models.Loss")
    if loss.group not in groups:
        names = ", ".join(groups)
        raise ModelError(f"{describe_method(model, 'losses')}: no group called {loss.group!r}, there are: {names}")
    if loss.metrics is not None and not isinstance(loss.metrics, Mapping):
        raise ModelError(
            f"{describe_method(model, 'losses')}: the metrics of a loss are {describe_value(loss.metrics)}"
        )
    method = describe_method(model, "losses")
    value = as_scalar(loss.value, f"{method}: a loss")
    metrics = {name: as_scalar(one, f"{method}: {name}") for name, one in (loss.metrics or {}).items()}
    return Loss(value, loss.group, metrics)


def check_metrics(model: Model, found: Any) -> dict[str, tuple[Tensor, int | None]]:
    """Return the metrics of `validate` by name, each with its number of images, or None for the whole batch.

    Raises ModelError if a metric is not a scalar, or a `Mean` has no valid number of images.
    """
    method = describe_method(model, "validate")
    if not isinstance(found, Mapping):
        raise ModelError(f"{method} returned {describe_value(found)}, not a dict of metrics")
    checked: dict[str, tuple[Tensor, int | None]] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise ModelError(f"{method}: the name of a metric is {name!r}, not a string")
        count = value.count if isinstance(value, Mean) else None
        if count is not None and not (type(count) is int and 0 <= count < MAX_COUNT):
            raise ModelError(f"{method}: {name} is a mean over {describe_value(count)}, not over a number of images")
        if isinstance(value, Mean) and count is None:
            raise ModelError(f"{method}: {name} is a mean over None, not over a number of images")
        checked[name] = (as_scalar(value.value if isinstance(value, Mean) else value, f"{method}: {name}"), count)
    return checked


def as_scalar(value: Any, what: str) -> Tensor:
    """Return a tensor of one real number with shape []; raises ModelError, which names `what`, for anything else."""
    if not isinstance(value, Tensor):
        raise ModelError(f"{what} is {describe_value(value)}, not a tensor of one number")
    if value.numel() != 1 or value.is_complex() or value.layout is not torch.strided or value.is_meta:
        raise ModelError(f"{what} is {describe_value(value)}, not one number")
    return value if value.dim() == 0 else value.reshape(())


def describe_method(model: Model, method: str) -> str:
    """Return the name of a model's method for messages, e.g. `model: VAE.losses`."""
    return f"model: {type(model).__name__}.{method}"


def describe_value(value: Any) -> str:
    """Return a short description of a value: type and shape of a tensor, else the class and the first characters."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {value!r:.40}".replace("\n", " ")
