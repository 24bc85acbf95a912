"""The cost of a step, from which the number of threads and the precision are chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from aectl.models.base import Batch, Model
from aectl.rng import Rng


@torch.no_grad()
def count_multiplications(model: Model, batch: Batch) -> float:
    """Return the multiplications by a weight per image when the model validates a batch.

    Dense and convolutional layers count at each call. The result is at least the number of weights.
    """
    total = 0

    def add(layer: nn.Linear | _ConvNd, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        seen = inputs[0] if isinstance(layer, _ConvTransposeNd) else output
        total += layer.weight[0].numel() * seen.numel()

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, _ConvNd))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        model.validate(batch, Rng(0, batch.x.device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return max(total / len(batch.x), sum(parameter.numel() for parameter in model.parameters()))


def count_dense_weights(model: nn.Module) -> int:
    """Return the number of weights in dense layers, whose products bf16 makes faster."""
    return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in parameters if p.requires_grad)
