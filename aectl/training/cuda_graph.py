"""The engine of `device.graph`: records a step as a CUDA graph, whose replay is one launch instead of hundreds.

A recording freezes everything that is not a tensor. So two replays are first compared with two unrecorded steps of a
copy of the model from the same state. If they differ, the run logs the reason and continues without a recording.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from aectl.data.datasets import Source
from aectl.models.base import Model, Stage
from aectl.rng import Rng
from aectl.training.compiled import CompiledEngine
from aectl.training.device import Device
from aectl.training.engine import Engine
from aectl.training.graph_recorder import RECORDERS, Scalars
from aectl.training.step_state import copy_state, find_difference, mutable_tensors, python_state, write_state

log = logging.getLogger("aectl")

FACTORS = (1.0, 0.5)
"""Factors on the learning rates in the two compared steps; unequal, so that a frozen learning rate is found."""


class CannotRecord(RuntimeError):
    """The step cannot be recorded, or recording would change its result."""


def make_engine(
    model: Model, stage: Stage, optimizer: Callable[..., Optimizer], device: Device, grad_clip: float | None = None
) -> Engine:
    """Return the engine of a stage, recorded or compiled if `device` asks for it."""
    kind = CudaGraphEngine if device.graph else CompiledEngine if device.compile else Engine
    return kind(model, stage, optimizer, device, grad_clip)


class Result(NamedTuple):
    """Scalars, tensors and the state of the rng after a step."""

    scalars: Scalars
    moved: dict[str, Tensor]
    random: Tensor


class CudaGraphEngine(CompiledEngine):
    """Engine that records its first step and replays it; all batches have one size, one source and one rng.

    With `device.compile`, the compiled step is recorded. Results equal those of `Engine` up to rounding; among others,
    learning rates are stored in single precision. Checkpoints have the same format. If a step cannot be recorded, or
    recording would change its result, the engine logs the reason and runs unrecorded steps.
    """

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.recorder = RECORDERS[self.device.torch.type]()
        self.factor, self.was_recorded = 1.0, False
        self.replay: Callable[[], Scalars] | None = None
        self.rate_tensors: dict[str, list[Tensor]] = {}
        self.capturable: dict[str, list[dict[str, bool]]] = {}

    def scale_rates(self, factor: float) -> None:
        is_new, self.factor = factor != self.factor, factor
        if self.replay is None:
            super().scale_rates(factor)
        elif is_new:
            self.fill_rates(factor)

    def fill_rates(self, factor: float) -> None:
        """Write the learning rates, scaled by `factor`, into the tensors that a recorded step reads."""
        for name, tensors in self.rate_tensors.items():
            for tensor, rate in zip(tensors, self.rates[name], strict=True):
                tensor.fill_(rate * factor)

    def rate(self) -> float:
        return next(iter(self.rates.values()))[0] * self.factor

    def step_on(self, source: Source, indices: Tensor, rng: Rng) -> Scalars:
        if not self.was_recorded:
            self.try_to_record(source, indices, rng)
        if self.replay is None:
            return super().step_on(source, indices, rng)
        if source is not self.source or rng is not self.rng or indices.shape != self.indices.shape:
            raise ValueError("a recorded step takes batches of one size, from one source, with one rng")
        self.indices.copy_(indices)
        return self.replay()

    def try_to_record(self, source: Source, indices: Tensor, rng: Rng) -> None:
        """Record the step; if that fails, restore the state before it and log why."""
        self.was_recorded, self.source, self.rng, self.indices = True, source, rng, indices.clone()
        self.model.is_recorded = True
        self.try_to_compile(source.batch(indices), rng)
        start, optimizers, random = copy_state(self), copy.deepcopy(super().state()), rng.state()
        try:
            self.replay = self.record(start, random)
            self.fill_rates(self.factor)
            self.known = python_state(self.model)
        except Exception as error:
            log.warning("device.graph: falling back to unrecorded steps: %s", root_cause(error))
            self.discard_recording()
            write_state(self, start)
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
            super().restore(optimizers)
            # After a failed capture, PyTorch may believe that the old generator is still being captured.
            rng.generator = torch.Generator(rng.device)
            rng.restore(random)

    def begin_epoch(self) -> None:
        super().begin_epoch()
        if self.replay is not None and self.known != python_state(self.model):
            log.warning(
                "device.graph: falling back to unrecorded steps: the model changes more than tensors between epochs"
            )
            kept = copy.deepcopy(self.state())
            self.discard_recording()
            super().restore(kept)

    def record(self, start: dict[str, Tensor], random: Tensor) -> Callable[[], Scalars]:
        """Return the replay of a recorded step; resets the state to `start` and `random`.

        Raises CannotRecord if a replay differs from an unrecorded step.
        """

        def step() -> Scalars:
            scalars = self.step(self.source.batch(self.indices), self.rng)
            return {name: value.detach() for name, value in scalars.items()}

        batches = self.indices.clone(), (self.indices + 1) % len(self.source)
        expected, others = (
            self.run_unrecorded_steps(batches, random, is_rounded=True),
            self.run_unrecorded_steps(batches, random),
        )
        self.prepare_optimizers()
        self.recorder.warm_up(step)
        for parameter in (one for params in self.params.values() for one in params):
            # Gradients that are allocated while recording keep the addresses that the graph writes to.
            parameter.grad = None
        replay = self.recorder.record(step, self.rng.generator)
        self.reset_to(start, random)
        for batch, factor, one, other in zip(batches, FACTORS, expected, others, strict=True):
            self.fill_rates(factor)
            self.indices.copy_(batch)
            # Rounding changes a loss very little, so two unrecorded steps have the same tolerance as a recorded one.
            if found := find_difference(other.scalars, one.scalars, one.scalars, {}):
                raise CannotRecord(f"two unrecorded steps from the same state differ: {found}")
            found = find_difference(replay(), one.scalars, one.scalars, {})
            found = found or find_difference(mutable_tensors(self), one.moved, other.moved, start)
            if found or not torch.equal(self.rng.state(), one.random):
                raise CannotRecord(f"a recorded step differs from an unrecorded one: {found or 'random numbers'}")
        self.reset_to(start, random)
        return replay

    def run_unrecorded_steps(
        self, batches: tuple[Tensor, ...], random: Tensor, is_rounded: bool = False
    ) -> list[Result]:
        """Return the results of unrecorded steps on copies of model, optimizers and rng.

        `is_rounded` rounds the learning rates to single precision. Raises CannotRecord if a step changes an attribute
        of the model that is neither a weight nor a buffer, since recording would freeze it.
        """
        twin, rng = self.copy_engine(), copy.copy(self.rng)
        twin.restore(copy.deepcopy(super().state()))
        if is_rounded:
            twin.rates = {name: torch.tensor(rates).tolist() for name, rates in self.rates.items()}
        rng.generator = torch.Generator(rng.device)
        rng.restore(random)
        before, results = python_state(twin.model), []
        for batch, factor in zip(batches, FACTORS, strict=True):
            twin.scale_rates(factor)
            scalars = {name: value.detach().clone() for name, value in twin.step_on(self.source, batch, rng).items()}
            results.append(Result(scalars, copy_state(twin), rng.state()))
        after = python_state(twin.model)
        if changed := [name for name in after.keys() | before.keys() if before.get(name) != after.get(name)]:
            raise CannotRecord(
                f"each step changes '{min(changed)}' of the model, which is neither a weight nor a buffer"
            )
        return results

    def prepare_optimizers(self) -> None:
        """Move the optimizers' learning rates and step counts into tensors on the device."""
        for name, optimizer in self.optimizers.items():
            groups = optimizer.param_groups
            self.capturable[name] = [{key: group[key] for key in ("capturable",) if key in group} for group in groups]
            for group in groups:
                if "capturable" in group:
                    group["capturable"] = True
                # Other implementations of SGD read the learning rate on the host.
                elif not (isinstance(optimizer, SGD) and group.get("fused")):
                    raise CannotRecord(f"{type(optimizer).__name__} cannot be recorded")
            for state in optimizer.state.values():
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(self.device.torch, torch.float32)
            self.rate_tensors[name] = [torch.full((), rate, device=self.device.torch) for rate in self.rates[name]]
            for group, tensor in zip(groups, self.rate_tensors[name], strict=True):
                group["lr"] = tensor

    def reset_to(self, start: dict[str, Tensor], random: Tensor) -> None:
        """Reset weights, buffers, optimizers and rng in place."""
        write_state(self, start)
        self.rng.restore(random)

    def state(self) -> dict[str, Mapping[str, Any]]:
        states = super().state()
        for name, settings in self.capturable.items():
            for group, own, rate in zip(states[name]["param_groups"], settings, self.rates[name], strict=True):
                group.update(own, lr=rate * self.factor)
        return states

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self.discard_recording()
        self.was_recorded = False
        super().restore(state)

    def discard_recording(self) -> None:
        """Discard the recording; later steps are unrecorded."""
        self.model.is_recorded = False
        self.replay, self.rate_tensors, self.capturable = None, {}, {}
        for parameter in (one for params in self.params.values() for one in params):
            parameter.grad = None


def root_cause(error: BaseException) -> str:
    """Return the first line of the first exception in a chain of exceptions."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return first if isinstance(error, CannotRecord) else f"{type(error).__name__}: {first}"
