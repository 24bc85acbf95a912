"""Several runs in one program: networks of one shape stacked, their steps taken as one (`torch.func.vmap`).

Small networks leave a machine idle: a step of one is mostly the calling of functions. What differs between the runs are
tensors alone, their weights, and the numbers that models keep as buffers, such as λ, β or a noise's strength.
Everything else stays each run's own: its optimizer, whose parameters are now slices of the stack, its random numbers,
its checkpoints.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from aectl.models.base import Batch, Loss, Model, Stage
from aectl.parallel import count
from aectl.rng import Rng
from aectl.training.moving import python_state
from aectl.training.trainer import Trainer

NEAR = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""How far what a step leaves may be from what it leaves alone, relative to the largest number of the tensor."""

FLOOR = 1e-5
"""The same, relative to the largest of all gradients: of what is nothing but rounding only the size counts."""

INTERNAL = {*vars(nn.Module())}
"""What every module keeps, beside what its class adds."""


class NotFusable(Exception):
    """Runs that cannot share a program, and why, in words for the user."""


class Fused:
    """The engines of several trainers that stand at the same step, as one.

    The models' parameters and buffers become slices of the stack. Making one tries it on a batch and raises NotFusable
    if it does not come to what each run comes to alone, or if there is something that a stack cannot keep apart: more
    than one loss in a step, or numbers in Python that a step changes. `holds` tells whether others have changed since.
    """

    def __init__(self, trainers: Sequence[Trainer], indices: Sequence[Tensor]) -> None:
        first = trainers[0]
        self.trainers, self.model, self.stage, self.device = trainers, first.model, first.stage, first.device
        self.engines = [trainer.engine for trainer in trainers]
        self.shared = all(trainer.examples is first.examples for trainer in trainers)
        if count() > 1:
            raise NotFusable("processes share its batches")
        # Before the stack is made, while each model is its own.
        references = {number: Reference(trainers[number], indices[number]) for number in {0, len(trainers) - 1}}
        self.group, self.draws = references[0].loss.group, references[0].draws
        self.stack()
        self.program = self.trace(self.batch(indices))
        self.check(references, self.batch(indices))
        self.states = [python_state(trainer.model) for trainer in trainers]

    def holds(self) -> bool:
        """Return whether the models still are what the program was made of, but for their tensors' numbers."""
        return self.states == [python_state(trainer.model) for trainer in self.trainers]

    def stack(self) -> None:
        """Put all parameters and buffers into tensors [runs, …], of which the models' own become slices."""
        self.tensors: dict[str, Tensor] = {}
        for name in tensors_of(self.model):
            own = [tensors_of(trainer.model)[name] for trainer in self.trainers]
            self.tensors[name] = torch.stack([one.detach() for one in own])
            for slot, one in zip(self.tensors[name], own, strict=True):
                one.data = slot
        trained = {id(parameter) for parameter in self.engines[0].params[self.group]}
        self.trained = [name for name, p in self.model.named_parameters() if id(p) in trained]
        self.parameters = [[dict(t.model.named_parameters())[name] for name in self.trained] for t in self.trainers]

    def batch(self, indices: Sequence[Tensor]) -> Batch:
        """Return the batches of all runs as one, [runs, N, …]."""
        if self.shared:
            whole = self.trainers[0].examples.batch(torch.cat(list(indices)))
            return Batch(*(tensor.unflatten(0, (len(indices), -1)) for tensor in whole))
        own = [trainer.examples.batch(where) for trainer, where in zip(self.trainers, indices, strict=True)]
        return Batch(*(torch.stack(tensors) for tensors in zip(*own, strict=True)))

    def drawn(self, rngs: Sequence[Rng]) -> list[Tensor]:
        """Draw what each run's step needs, [runs, …], from the run's own source."""
        return [torch.stack([rng.draw(function, shape, 0) for rng in rngs]) for function, shape in self.draws]

    def trace(self, batch: Batch) -> Callable[..., Any]:
        """Return the step of all runs as a program of tensor operations: gradients and scalars, [runs, …]."""
        # Here, because it brings torch's compiler with it.
        from torch.fx.experimental.proxy_tensor import make_fx

        step, stage = functional(self.model), self.stage

        def one(trained: dict[str, Tensor], others: dict[str, Tensor], batch: Batch, draws: list[Tensor]) -> Any:
            return step({**trained, **others}, batch, stage, Replayed(draws, batch.x.device))

        def all_of_them(tensors: dict[str, Tensor], batch: Batch, draws: list[Tensor]) -> Any:
            trained = {name: tensors[name] for name in self.trained}
            others = {name: tensor for name, tensor in tensors.items() if name not in trained}
            gradients, (_, scalars) = vmap(grad_and_value(one, has_aux=True))(trained, others, batch, draws)
            return [gradients[name].contiguous() for name in self.trained], scalars

        copies = {name: tensor.clone() for name, tensor in self.tensors.items()}
        draws = self.drawn([copied(trainer.rng) for trainer in self.trainers])
        try:
            with self.device.autocast(), warnings.catch_warnings():
                # One tells of operations that would be run for each of the runs by itself.
                warnings.simplefilter("error")
                return make_fx(all_of_them)(copies, batch, draws)
        except NotFusable:
            raise
        except Exception as error:
            raise NotFusable(f"its operations cannot be stacked ({first_line(error)})") from error

    def check(self, references: Mapping[int, Reference], batch: Batch) -> None:
        """Raise NotFusable unless the program gives the gradients and buffers that runs have alone."""
        copies = {name: tensor.clone() for name, tensor in self.tensors.items()}
        with torch.no_grad(), self.device.products():
            gradients, _ = self.program(copies, batch, self.drawn([copied(t.rng) for t in self.trainers]))
        found = copies | dict(zip(self.trained, gradients, strict=True))
        for number, reference in references.items():
            alone = reference.tensors(self.trained)
            floor = FLOOR * max(largest(alone[name]) for name in self.trained)
            for name, right in alone.items():
                off = torch.where(right.isfinite(), found[name][number].double() - right.double(), 0).abs()
                if not bool((off <= NEAR[self.device.precision] * largest(right) + floor).all()):
                    raise NotFusable(f"'{name}' comes out otherwise than in a run alone")

    @torch.no_grad()
    def step(self, indices: Sequence[Tensor]) -> list[Mapping[str, Tensor]]:
        """Run one step of each run on its images; returns each one's scalars by name, still on the device."""
        draws = self.drawn([trainer.rng for trainer in self.trainers])
        with self.device.products():
            gradients, scalars = self.program(self.tensors, self.batch(indices), draws)
        by_run = zip(*(gradient.unbind(0) for gradient in gradients), strict=True)
        for engine, parameters, own in zip(self.engines, self.parameters, by_run, strict=True):
            for parameter, gradient in zip(parameters, own, strict=True):
                parameter.grad = gradient
            engine.descend(self.group)
        values = zip(*(value.unbind(0) for value in scalars.values()), strict=True)
        return [dict(zip(scalars, own, strict=True)) for own in values]


class Reference:
    """A run's next step as it is alone, on a copy: its loss, what it draws, and what it leaves in the model."""

    def __init__(self, trainer: Trainer, indices: Tensor) -> None:
        self.model = copy.deepcopy(trainer.model)
        rng = Recorded(trainer.rng)
        before = python_state(self.model)
        batch = trainer.examples.batch(indices)
        with trainer.device.autocast():
            self.loss = only(self.model, batch, trainer.stage, rng)
        if python_state(self.model) != before:
            raise NotFusable("a step changes more of the model than tensors")
        if len(trainer.engine.params) > 1:
            raise NotFusable("it has several groups of parameters")
        self.draws = rng.draws

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return all tensors of the model by name: of these names the gradients, of others what the step has left."""
        parameters = dict(self.model.named_parameters())
        found = torch.autograd.grad(self.loss.value, [parameters[name] for name in names], materialize_grads=True)
        left = {name: tensor.detach() for name, tensor in tensors_of(self.model).items()}
        return left | dict(zip(names, found, strict=True))


class Numbers(Rng):
    """A source of numbers alone: what else one can draw would be the same for all runs."""

    def permutation(self, n: int) -> Tensor:
        raise NotFusable("a step draws a permutation")

    def fork(self, *names: str | int) -> Rng:
        raise NotFusable("a step makes a source of random numbers of its own")


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


def release(model: nn.Module) -> None:
    """Give a model that leaves the stack tensors of its own."""
    for tensor in tensors_of(model).values():
        tensor.data = tensor.data.clone()


def only(model: Model, batch: Batch, stage: Stage, rng: Rng) -> Loss:
    """Return the one loss that a step yields.

    Raises NotFusable if there is another, or if the model goes on behind it: that would have to see the weights moved.
    """
    steps = iter(model.losses(batch, stage, rng))
    loss = next(steps)
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    if next(steps, None) is not None:
        raise NotFusable("a step has several losses")
    if any(not torch.equal(tensor, before[name]) for name, tensor in tensors_of(model).items()):
        raise NotFusable("the model changes after its step")
    return loss


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those that are shared once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def copied(rng: Rng) -> Rng:
    """Return a source that goes on as this one would."""
    other = Rng(rng.seed, rng.device)
    other.restore(rng.state())
    return other


def attributes(model: nn.Module) -> list[Any]:
    """Return what tells a model's program: shapes, classes, and all that its modules keep but tensors."""
    shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in tensors_of(model).items()]
    kept = [{key: value for key, value in vars(module).items() if key not in INTERNAL} for module in model.modules()]
    return [shapes, [type(module) for module in model.modules()], kept]


def alike(one: list[Any], other: list[Any]) -> bool:
    """Return whether two models' attributes are the same; what cannot be compared is not."""
    try:
        return bool(one == other)
    except (RuntimeError, ValueError, TypeError):
        return False
