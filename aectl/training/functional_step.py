"""A training step as a function of tensors: weights, batch and random numbers in, loss and gradients out.

`device.compile` compiles that function. A step on a copy of the model checks that it has no other inputs or effects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from aectl.models.base import Batch, Loss, Model, Stage
from aectl.rng import Rng
from aectl.training.engine import Engine
from aectl.training.step_state import python_state

TOLERANCES = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""Largest difference from the eager step, relative to the largest entry of the tensor, by precision."""

NOISE_FLOOR = 1e-5
"""Difference that is always allowed, relative to the largest entry of all gradients; smaller entries are rounding."""


class NotFunctional(Exception):
    """A step is not a function of tensors, or cannot be run as one; the message tells the user why."""


class EagerStep:
    """The next step, run eagerly on a copy of the model: its loss, its random draws, and the tensors after it."""

    def __init__(self, engine: Engine, batch: Batch, rng: Rng) -> None:
        self.model, self.precision = copy.deepcopy(engine.model), engine.device.precision
        recorded = RecordingRng(rng)
        before = python_state(self.model)
        with engine.device.autocast():
            self.loss = single_loss(self.model, batch, engine.stage, recorded)
        if python_state(self.model) != before:
            raise NotFunctional("a step changes more than the model's tensors")
        if len(engine.params) > 1:
            raise NotFunctional("the stage has several groups of parameters")
        self.draws = recorded.draws

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the gradients of the parameters `names`, and the values of all other tensors after the step."""
        parameters = dict(self.model.named_parameters())
        found = torch.autograd.grad(self.loss.value, [parameters[name] for name in names], materialize_grads=True)
        left = {name: tensor.detach() for name, tensor in named_tensors(self.model).items()}
        return left | dict(zip(names, found, strict=True))

    def check(self, found: Mapping[str, Tensor], trained: Sequence[str]) -> None:
        """Raise NotFunctional if `found` (gradients of `trained`, values of the others) differs from this step."""
        alone = self.tensors(trained)
        floor = NOISE_FLOOR * max(max_abs(alone[name]) for name in trained)
        for name, right in alone.items():
            off = torch.where(right.isfinite(), found[name].double() - right.double(), 0).abs()
            if not bool((off <= TOLERANCES[self.precision] * max_abs(right) + floor).all()):
                raise NotFunctional(f"'{name}' differs from an eager step")


class RestrictedRng(Rng):
    """Rng that only draws numbers; a permutation or fork would become a constant of the compiled program."""

    def permutation(self, n: int) -> Tensor:
        raise NotFunctional("a step draws a permutation")

    def fork(self, *names: str | int) -> Rng:
        raise NotFunctional("a step forks its random numbers")


class RecordingRng(RestrictedRng):
    """Copy of an rng that records its draws."""

    def __init__(self, rng: Rng) -> None:
        super().__init__(rng.seed, rng.device)
        self.restore(rng.state())
        self.draws: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = []

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
        self.draws.append((function, shape))
        return super().draw(function, shape, batch)


class ReplayRng(RestrictedRng):
    """Rng that returns given numbers in order."""

    def __init__(self, drawn: Sequence[Tensor], device: torch.device) -> None:
        super().__init__(0, device)
        self.drawn = iter(drawn)

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
        return next(self.drawn)


class LossModule(nn.Module):
    """Module whose `forward` returns the model's only loss, as `functional_call` requires."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, stage: Stage, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        loss = next(iter(self.model.losses(batch, stage, rng)))
        return loss.value, {"loss": loss.value, **(loss.metrics or {})}


def make_functional(model: Model) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Return the model's loss and scalars as a function of its tensors by name, a batch, a stage and an rng."""
    losses = LossModule(model)
    return lambda tensors, *arguments: functional_call(
        losses, {f"model.{name}": tensor for name, tensor in tensors.items()}, arguments
    )


def max_abs(tensor: Tensor) -> float:
    """Return the largest absolute value of the finite entries, 0 if there are none."""
    finite = tensor.double()[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def describe_error(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def single_loss(model: Model, batch: Batch, stage: Stage, rng: Rng) -> Loss:
    """Return the only loss that a step yields.

    Raises NotFunctional if there is another one, or if the model changes after yielding it, since that code would have
    to see the updated weights.
    """
    steps = iter(model.losses(batch, stage, rng))
    loss = next(steps)
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    if next(steps, None) is not None:
        raise NotFunctional("a step has several losses")
    if any(not torch.equal(tensor, before[name]) for name, tensor in named_tensors(model).items()):
        raise NotFunctional("the model changes after its loss is yielded")
    return loss


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copy_rng(rng: Rng) -> Rng:
    """Return an rng in the same state."""
    other = Rng(rng.seed, rng.device)
    other.restore(rng.state())
    return other
