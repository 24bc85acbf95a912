"""Several runs in one program: networks of one shape stacked, their steps taken as one (`torch.func.vmap`).

Small networks leave a machine idle: a step of one is mostly the calling of functions. What differs between the runs are
tensors alone, their weights, and the numbers that models keep as buffers, such as λ, β or a noise's strength.
Everything else stays each run's own: its optimizer, whose parameters are now slices of the stack, its random numbers,
its checkpoints.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from aectl.models.base import Batch
from aectl.parallel import count
from aectl.rng import Rng
from aectl.training.functional import (
    NotFunctional,
    Reference,
    Replayed,
    copied,
    first_line,
    functional,
    tensors_of,
)
from aectl.training.moving import python_state
from aectl.training.trainer import Trainer

INTERNAL = {*vars(nn.Module())}
"""What every module keeps, beside what its class adds."""


class Fused:
    """The engines of several trainers that stand at the same step, as one.

    The models' parameters and buffers become slices of the stack. Making one tries it on a batch and raises
    NotFunctional if it does not come to what each run comes to alone, or if there is something that a stack cannot keep
    apart: more than one loss in a step, or numbers in Python that a step changes. `holds` tells whether others have
    changed since.
    """

    def __init__(self, trainers: Sequence[Trainer], indices: Sequence[Tensor]) -> None:
        first = trainers[0]
        self.trainers, self.model, self.stage, self.device = trainers, first.model, first.stage, first.device
        self.engines = [trainer.engine for trainer in trainers]
        self.shared = all(trainer.examples is first.examples for trainer in trainers)
        if count() > 1:
            raise NotFunctional("processes share its batches")
        # Before the stack is made, while each model is its own.
        references = {
            number: Reference(one.engine, one.examples.batch(indices[number]), one.rng)
            for number, one in enumerate(trainers)
            if number in (0, len(trainers) - 1)
        }
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
        except NotFunctional:
            raise
        except Exception as error:
            raise NotFunctional(f"its operations cannot be stacked ({first_line(error)})") from error

    def check(self, references: Mapping[int, Reference], batch: Batch) -> None:
        """Raise NotFunctional unless the program gives the gradients and buffers that runs have alone."""
        copies = {name: tensor.clone() for name, tensor in self.tensors.items()}
        with torch.no_grad(), self.device.products():
            gradients, _ = self.program(copies, batch, self.drawn([copied(t.rng) for t in self.trainers]))
        found = copies | dict(zip(self.trained, gradients, strict=True))
        for number, reference in references.items():
            reference.check({name: tensor[number] for name, tensor in found.items()}, self.trained)

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


def release(model: nn.Module) -> None:
    """Give a model that leaves the stack tensors of its own."""
    for tensor in tensors_of(model).values():
        tensor.data = tensor.data.clone()


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
