"""A training step as a function of tensors: weights, batch and random numbers in, loss and gradients out.

`device.compile` compiles that function. Whether a step is one is found out on a copy of the model.
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

NEAR = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""How far what a step leaves may be from what it leaves alone, relative to the largest number of the tensor."""

FLOOR = 1e-5
"""The same, relative to the largest of all gradients: of what is nothing but rounding only the size counts."""


class NotFunctional(Exception):
    """A step that is no function of tensors alone, or cannot be run as one, and why, in words for the user."""


class Reference:
    """A run's next step as it is alone, on a copy: its loss, what it draws, and what it leaves in the model."""

    def __init__(self, engine: Engine, batch: Batch, rng: Rng) -> None:
        self.model, self.precision = copy.deepcopy(engine.model), engine.device.precision
        recorded = Recorded(rng)
        before = python_state(self.model)
        with engine.device.autocast():
            self.loss = only(self.model, batch, engine.stage, recorded)
        if python_state(self.model) != before:
            raise NotFunctional("a step changes more of the model than tensors")
        if len(engine.params) > 1:
            raise NotFunctional("it has several groups of parameters")
        self.draws = recorded.draws

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return all tensors of the model by name: of these names the gradients, of others what the step has left."""
        parameters = dict(self.model.named_parameters())
        found = torch.autograd.grad(self.loss.value, [parameters[name] for name in names], materialize_grads=True)
        left = {name: tensor.detach() for name, tensor in tensors_of(self.model).items()}
        return left | dict(zip(names, found, strict=True))

    def check(self, found: Mapping[str, Tensor], trained: Sequence[str]) -> None:
        """Raise NotFunctional unless tensors by name, gradients of those `trained`, are what the step comes to here."""
        alone = self.tensors(trained)
        floor = FLOOR * max(largest(alone[name]) for name in trained)
        for name, right in alone.items():
            off = torch.where(right.isfinite(), found[name].double() - right.double(), 0).abs()
            if not bool((off <= NEAR[self.precision] * largest(right) + floor).all()):
                raise NotFunctional(f"'{name}' comes out otherwise than in a run alone")


class Numbers(Rng):
    """A source of random numbers alone: anything else that a step draws would be a constant of its program."""

    def permutation(self, n: int) -> Tensor:
        raise NotFunctional("a step draws a permutation")

    def fork(self, *names: str | int) -> Rng:
        raise NotFunctional("a step makes a source of random numbers of its own")


class Recorded(Numbers):
    """A source that goes on as another one would, and notes what is drawn."""

    def __init__(self, rng: Rng) -> None:
        super().__init__(rng.seed, rng.device)
        self.restore(rng.state())
        self.draws: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = []

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
        self.draws.append((function, shape))
        return super().draw(function, shape, batch)


class Replayed(Numbers):
    """A source that returns what has been drawn already, in order."""

    def __init__(self, drawn: Sequence[Tensor], device: torch.device) -> None:
        super().__init__(0, device)
        self.drawn = iter(drawn)

    def draw(self, function: Callable[..., Tensor], shape: tuple[int, ...], batch: int) -> Tensor:
        return next(self.drawn)


class Losses(nn.Module):
    """A model whose call is its one loss, as `functional_call` wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, stage: Stage, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        loss = next(iter(self.model.losses(batch, stage, rng)))
        return loss.value, {"loss": loss.value, **(loss.metrics or {})}


def functional(model: Model) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Return the model's loss and scalars as a function of its tensors by name, a batch, a stage and a source."""
    losses = Losses(model)
    return lambda tensors, *arguments: functional_call(
        losses, {f"model.{name}": tensor for name, tensor in tensors.items()}, arguments
    )


def largest(tensor: Tensor) -> float:
    """Return the largest size of the numbers that are finite; 0 if there are none."""
    finite = tensor.double()[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def first_line(error: BaseException) -> str:
    """Return an error in one line."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def only(model: Model, batch: Batch, stage: Stage, rng: Rng) -> Loss:
    """Return the one loss that a step yields.

    Raises NotFunctional if there is another, or if the model goes on behind it, which would have to see the weights
    moved.
    """
    steps = iter(model.losses(batch, stage, rng))
    loss = next(steps)
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    if next(steps, None) is not None:
        raise NotFunctional("a step has several losses")
    if any(not torch.equal(tensor, before[name]) for name, tensor in tensors_of(model).items()):
        raise NotFunctional("the model changes after its step")
    return loss


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those that are shared once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copied(rng: Rng) -> Rng:
    """Return a source that goes on as this one would."""
    other = Rng(rng.seed, rng.device)
    other.restore(rng.state())
    return other
