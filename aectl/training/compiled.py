"""An engine whose step is compiled (`torch.compile`): fewer and larger operations, once they have been made.

What is compiled is the step as a function of tensors, gradients included; the optimizer steps as ever.
"""

from __future__ import annotations

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
from aectl.training.functional import NotFunctional, Reference, Replayed, copied, first_line, functional, tensors_of
from aectl.training.moving import python_state

log = logging.getLogger("aectl")

BACKEND = "inductor"
"""What torch compiles with."""


class CompiledEngine(Engine):
    """An engine whose first step compiles, which takes half a minute; one source, one batch size.

    The result is the plain engine's up to rounding, and so is its state, in checkpoints. Where a step is no function of
    tensors, or cannot be compiled, it is a plain engine, and one line of the log says why.
    """

    program: Callable[..., Any] | None = None
    is_tried = False

    def step_on(self, source: Source, indices: Tensor, rng: Rng) -> dict[str, Tensor]:
        batch = source.batch(indices)
        if not self.is_tried:
            self.try_to_compile(batch, rng)
        if self.program is None:
            return self.step(batch, rng)
        draws = [rng.draw(function, shape, 0) for function, shape in self.draws]
        with torch.no_grad(), self.device.products():
            gradients, scalars = self.program(self.tensors, batch, draws)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        self.descend(self.group)
        return scalars

    def try_to_compile(self, batch: Batch, rng: Rng) -> None:
        """Compile the step, or be a plain engine and say why."""
        self.is_tried = True
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
        names = {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in chosen}
        self.trained = list(names.values())
        self.tensors = {name: tensor.detach() for name, tensor in tensors_of(self.model).items()}
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
        reference.check(tensors | dict(zip(names, gradients, strict=True)), list(names))
        return program

    def begin_epoch(self) -> None:
        if self.program is not None and self.known != python_state(self.model):
            self.go_on_plain("the model changes between epochs more than tensors")
