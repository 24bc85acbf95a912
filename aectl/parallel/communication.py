"""Communication between processes that train one model, each on its part of every batch.

All processes have the same weights, draw the same random numbers, average their gradients and make the same decisions,
so the result equals that of a single process with the whole batch, up to rounding. Process 0 is the leader: only it
reads the command line and writes the run folder; the other processes are its followers. With a single process, which is
the default, all functions here return their input.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Lost(RuntimeError):
    """Another process of a multi-process run has ended early."""


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def local_rank() -> int:
    """Return the rank of this process among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0)) if count() > 1 else 0


def local_count() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def reduce(x: Tensor, operation: str = "SUM") -> None:
    """Replace x by its sum, or another reduction, over the processes; raises Lost if a process has ended."""
    try:
        dist.all_reduce(x, getattr(dist.ReduceOp, operation))
    except RuntimeError as error:
        raise Lost(f"another process has ended ({str(error).splitlines()[0]})") from error


class Average(torch.autograd.Function):
    """Mean over processes. The operation is its own adjoint, so backward equals forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        reduce(total)
        return total / count()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Average.apply(gradient)


def average(x: Tensor) -> Tensor:
    """Return the mean of x over the processes; gradients flow through it.

    Models apply this to every statistic of the whole batch except the loss, which the trainer averages. All processes
    must call it at every step.
    """
    return x if count() == 1 else Average.apply(x)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if count() == 1 or not gradients:
        return
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agree_on_reason(reason: str | None, reasons: Sequence[str]) -> str | None:
    """Return the reason of any process, or None if no process has one; the result is the same in all processes."""
    if count() == 1:
        return reason
    number = torch.tensor(0 if reason is None else 1 + reasons.index(reason))
    reduce(number, "MAX")
    return reasons[int(number) - 1] if number else None


def take_part(whole: Tensor) -> Tensor:
    """Return this process's part of a batch [N, …]; N must be a multiple of the number of processes."""
    return whole.chunk(count())[rank()]


def broadcast_weights(model: nn.Module) -> None:
    """Copy the leader's parameters and buffers to all processes."""
    if count() == 1:
        return
    try:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
    except RuntimeError as error:
        raise Lost(f"another process has ended ({str(error).splitlines()[0]})") from error


def wait_for_all() -> None:
    """Wait until all processes have called this function; raises Lost if a process has ended.

    Synchronises on the CPU: GPUs would wait forever for a process that has ended.
    """
    if count() > 1:
        reduce(torch.zeros(1))


def broadcast_numbers(numbers: dict[str, float]) -> dict[str, float]:
    """Return the leader's numbers, so that all processes decide by the same values in spite of rounding errors."""
    if count() == 1:
        return numbers
    values = torch.tensor([*numbers.values()] if rank() == 0 else [0.0] * len(numbers), dtype=torch.float64)
    reduce(values)
    return dict(zip(numbers, values.tolist(), strict=True))
