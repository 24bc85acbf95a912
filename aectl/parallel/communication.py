"""Processes that train one model together, each on its part of every batch.

They hold the same weights, draw the same random numbers, average their gradients and take every decision alike, so that
they come to what one process comes to with the whole batch, up to rounding. Process 0 leads: it alone reads the command
and writes the run's folder; the others follow what it says. One process alone is the rule, and everything here leaves
it as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Lost(RuntimeError):
    """One of the processes that train together has ended early."""


def count() -> int:
    """Return how many processes train together, 1 for one alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def local_rank() -> int:
    """Return which of those on this machine this one is, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0)) if count() > 1 else 0


def local_count() -> int:
    """Return how many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def reduce(x: Tensor, operation: str = "SUM") -> None:
    """Put into x its sum, or another reduction, over the processes; raises Lost if one of them is gone."""
    try:
        dist.all_reduce(x, getattr(dist.ReduceOp, operation))
    except RuntimeError as error:
        raise Lost(f"another process has ended ({str(error).splitlines()[0]})") from error


class Average(torch.autograd.Function):
    """The mean over processes, which is its own adjoint: so is the way of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        reduce(total)
        return total / count()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Average.apply(gradient)


def average(x: Tensor) -> Tensor:
    """Return the mean of x over the processes, differentiably: of a batch's mean over parts, that over the batch.

    What a model computes of a whole batch but its loss, which is averaged by the trainer, it passes through here, at
    every step and in all processes alike.
    """
    return x if count() == 1 else Average.apply(x)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Put the mean over processes in the place of each gradient."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not gradients:
        return
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agreed(reason: str | None, reasons: Sequence[str]) -> str | None:
    """Return the reason that one of the processes has, or None if none has: all of them get the same answer."""
    if count() == 1:
        return reason
    number = torch.tensor(0 if reason is None else 1 + reasons.index(reason))
    reduce(number, "MAX")
    return reasons[int(number) - 1] if number else None


def part(whole: Tensor) -> Tensor:
    """Return this process's part of a batch [N, …]; N must be a multiple of the processes."""
    return whole.chunk(count())[rank()]


def match(model: nn.Module) -> None:
    """Give all processes the leader's weights."""
    if count() == 1:
        return
    try:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
    except RuntimeError as error:
        raise Lost(f"another process has ended ({str(error).splitlines()[0]})") from error


def meet() -> None:
    """Wait until all processes have come this far; raises Lost if one of them never will.

    By way of the CPU, since GPUs wait without end for one that is gone.
    """
    if count() > 1:
        reduce(torch.zeros(1))


def leaders(numbers: dict[str, float]) -> dict[str, float]:
    """Return the leader's numbers, on which alone what comes next is decided: the others' may be rounded otherwise."""
    if count() == 1:
        return numbers
    values = torch.tensor([*numbers.values()] if rank() == 0 else [0.0] * len(numbers), dtype=torch.float64)
    reduce(values)
    return dict(zip(numbers, values.tolist(), strict=True))
