"""An engine whose step is compiled (`torch.compile`): fewer and larger operations, once they have been made.

What is compiled is the step as a function of tensors, gradients included; the optimizer steps as ever.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.models.base import Batch
from aectl.rng import Rng
from aectl.training.engine import Engine
from aectl.training.functional_step import (
    NotFunctional,
    Reference,
    Replayed,
    copied,
    first_line,
    functional,
    tensors_of,
)
from aectl.training.step_state import python_state

log = logging.getLogger("aectl")

BACKEND = "inductor"
"""What torch compiles with."""


class CompiledEngine(Engine):
    """An engine whose first step compiles, which takes half a minute; one source, one batch size.

    The result is the plain engine's up to rounding, and so is its state, in checkpoints. Where a step is no function of
    tensors, or cannot be compiled, it is a plain engine, and one line of the log says why.
    """

    program: Callable[..., Any] | None = None
    was_compiled = False

    def step_on(self, source: Source, indices: Tensor, rng: Rng) -> dict[str, Tensor]:
        batch = source.batch(indices)
        self.try_to_compile(batch, rng)
        return self.step(batch, rng)

    def step(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        if self.program is None:
            return super().step(batch, rng)
        draws = [rng.draw(function, shape, 0) for function, shape in self.draws]
        with torch.no_grad(), self.device.products():
            gradients, scalars = self.program(self.tensors, batch, draws)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        self.descend(self.group)
        return scalars

    def try_to_compile(self, batch: Batch, rng: Rng) -> None:
        """Compile the step, if that has not been tried, or be a plain engine and say why."""
        if self.was_compiled or not self.device.compile:
            return
        self.was_compiled = True
        try:
            with warnings.catch_warnings():
                # What torch's compiler has to say of itself.
                warnings.simplefilter("ignore")
                self.program = self.compiled(batch, rng)
            self.known = python_state(self.model)
        except NotFunctional as error:
            self.go_on_plain(str(error))
        except Exception as error:
            self.go_on_plain(first_line(error))

    def go_on_plain(self, why: str) -> None:
        """Be a plain engine from here on."""
        log.warning("device.compile: steps run as ever, since %s", why)
        self.program = None

    def compiled(self, batch: Batch, rng: Rng) -> Callable[..., Any]:
        """Return the step as a compiled function that comes to what the step comes to."""
        from torch.fx.experimental.proxy_tensor import make_fx

        reference = Reference(self, batch, rng)
        self.group, self.draws = reference.loss.group, reference.draws
        chosen = {id(parameter) for parameter in self.params[self.group]}
        self.names = names = [name for name, parameter in self.model.named_parameters() if id(parameter) in chosen]
        self.bind()
        loss_of, stage = functional(self.model), self.stage

        def step(tensors: dict[str, Tensor], batch: Batch, draws: list[Tensor]) -> Any:
            own = {name: tensors[name].detach().requires_grad_() for name in names}
            loss, scalars = loss_of({**tensors, **own}, batch, stage, Replayed(draws, batch.x.device))
            gradients = torch.autograd.grad(loss, [own[name] for name in names], materialize_grads=True)
            return [gradient.contiguous() for gradient in gradients], scalars

        def given() -> tuple[dict[str, Tensor], Batch, list[Tensor]]:
            source = copied(rng)
            tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
            return tensors, batch, [source.draw(function, shape, 0) for function, shape in self.draws]

        with self.device.autocast():
            traced = make_fx(step)(*given())
        program, (tensors, *others) = torch.compile(traced, backend=BACKEND, dynamic=False), given()
        with torch.no_grad(), self.device.products():
            gradients, _ = program(tensors, *others)
        reference.check(tensors | dict(zip(names, gradients, strict=True)), names)
        return program

    def bind(self) -> None:
        """Find the tensors that the program takes in the model."""
        parameters = dict(self.model.named_parameters())
        self.trained = [parameters[name] for name in self.names]
        self.tensors = {name: tensor.detach() for name, tensor in tensors_of(self.model).items()}

    def twin(self) -> Engine:
        """Return an engine that steps a copy of the model by the same program, its state left to be restored."""
        other = CompiledEngine(copy.deepcopy(self.model), self.stage, self.make_optimizer, self.device, self.grad_clip)
        other.was_compiled, other.program = True, self.program
        if self.program is not None:
            other.group, other.draws, other.names = self.group, self.draws, self.names
            other.bind()
        return other

    def begin_epoch(self) -> None:
        if self.program is not None and self.known != python_state(self.model):
            self.go_on_plain("the model changes between epochs more than tensors")
