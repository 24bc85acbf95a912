"""The engine of `device.compile`: losses and gradients are computed by `torch.compile`, the optimizer steps eagerly."""

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
    EagerStep,
    NotFunctional,
    ReplayRng,
    copy_rng,
    describe_error,
    make_functional,
    named_tensors,
)
from aectl.training.step_state import python_state

log = logging.getLogger("aectl")

BACKEND = "inductor"
"""Backend of `torch.compile`."""


class CompiledEngine(Engine):
    """Engine that compiles its first step, which takes half a minute; all batches have one size.

    Results and checkpoints equal those of `Engine` up to rounding. If a step is not a function of tensors, or cannot be
    compiled, the engine logs the reason and falls back to eager steps.
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
        with torch.no_grad(), self.device.matmul_precision():
            gradients, scalars = self.program(self.tensors, batch, draws)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        self.descend(self.group)
        return scalars

    def try_to_compile(self, batch: Batch, rng: Rng) -> None:
        """Compile the step at the first call; falls back to eager steps if that fails."""
        if self.was_compiled or not self.device.compile:
            return
        self.was_compiled = True
        try:
            with warnings.catch_warnings():
                # torch's compiler warns about its own internals.
                warnings.simplefilter("ignore")
                self.program = self.compile_step(batch, rng)
            self.known = python_state(self.model)
        except NotFunctional as error:
            self.fall_back(str(error))
        except Exception as error:
            self.fall_back(describe_error(error))

    def fall_back(self, why: str) -> None:
        """Run eager steps from now on, and log why."""
        log.warning("device.compile: falling back to eager steps: %s", why)
        self.program = None

    def compile_step(self, batch: Batch, rng: Rng) -> Callable[..., Any]:
        """Return the compiled step, after comparing it with an eager one; raises NotFunctional if they differ."""
        from torch.fx.experimental.proxy_tensor import make_fx

        reference = EagerStep(self, batch, rng)
        self.group, self.draws = reference.loss.group, reference.draws
        self.names = names = list(self.named_parameters(self.group))
        self.bind_tensors()
        loss_of, stage = make_functional(self.model), self.stage

        def step(tensors: dict[str, Tensor], batch: Batch, draws: list[Tensor]) -> Any:
            own = {name: tensors[name].detach().requires_grad_() for name in names}
            loss, scalars = loss_of({**tensors, **own}, batch, stage, ReplayRng(draws, batch.x.device))
            gradients = torch.autograd.grad(loss, [own[name] for name in names], materialize_grads=True)
            return [gradient.contiguous() for gradient in gradients], scalars

        def make_inputs() -> tuple[dict[str, Tensor], Batch, list[Tensor]]:
            source = copy_rng(rng)
            tensors = {name: tensor.clone() for name, tensor in self.tensors.items()}
            return tensors, batch, [source.draw(function, shape, 0) for function, shape in self.draws]

        with self.device.autocast():
            traced = make_fx(step)(*make_inputs())
        program, (tensors, *others) = torch.compile(traced, backend=BACKEND, dynamic=False), make_inputs()
        with torch.no_grad(), self.device.matmul_precision():
            gradients, _ = program(tensors, *others)
        reference.check(tensors | dict(zip(names, gradients, strict=True)), names)
        return program

    def bind_tensors(self) -> None:
        """Look up the model's tensors that the program takes."""
        parameters = dict(self.model.named_parameters())
        self.trained = [parameters[name] for name in self.names]
        self.tensors = {name: tensor.detach() for name, tensor in named_tensors(self.model).items()}

    def copy_engine(self) -> Engine:
        """Return an engine for a copy of the model with the same program; optimizer states are not copied."""
        other = CompiledEngine(copy.deepcopy(self.model), self.stage, self.make_optimizer, self.device, self.grad_clip)
        other.was_compiled, other.program = True, self.program
        if self.program is not None:
            other.group, other.draws, other.names = self.group, self.draws, self.names
            other.bind_tensors()
        return other

    def begin_epoch(self) -> None:
        if self.program is not None and self.known != python_state(self.model):
            self.fall_back("the model changes more than tensors between epochs")
