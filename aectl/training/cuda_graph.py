"""An engine that records a whole step on the device and replays it: on a GPU, one launch in the place of hundreds.

What recording would freeze is found before it does harm: a copy of the model steps twice as ever, the recording twice
from the same state, and unless both come to the same, the run goes on without it and says why.
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
from aectl.training.step_state import difference, keep, moving, put_back, python_state

log = logging.getLogger("aectl")

FACTORS = (1.0, 0.5)
"""On the learning rates in the two steps of the check, so that a rate which recording has frozen shows."""


class Refused(RuntimeError):
    """A step that recording would change."""


def engine(
    model: Model, stage: Stage, optimizer: Callable[..., Optimizer], device: Device, grad_clip: float | None = None
) -> Engine:
    """Return what runs the steps of a stage, recorded or compiled if the device is to."""
    kind = CapturedEngine if device.graph else CompiledEngine if device.compile else Engine
    return kind(model, stage, optimizer, device, grad_clip)


class Result(NamedTuple):
    """What comes of a step."""

    scalars: Scalars
    moved: dict[str, Tensor]
    random: Tensor
    """The rng's state behind it."""


class CapturedEngine(CompiledEngine):
    """An engine whose first step records, and whose steps are replays of that; one source, one rng, one batch size.

    What is recorded is the compiled step, if the device compiles, and the step as it is otherwise.

    The result is that of the plain engine up to rounding, of learning rates among others, which stand in tensors of
    single precision. Its state, in checkpoints, is the plain engine's. Where recording is not possible, or would change
    the result, it is a plain engine and one line of the log says why.
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
        """Write `factor` times the optimizers' rates into the tensors that a recorded step reads."""
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
        """Record the step, or leave everything as it was and say why not."""
        self.was_recorded, self.source, self.rng, self.indices = True, source, rng, indices.clone()
        self.try_to_compile(source.batch(indices), rng)
        start, optimizers, random = keep(self), copy.deepcopy(super().state()), rng.state()
        try:
            self.replay = self.record(start, random)
            self.fill_rates(self.factor)
            self.known = python_state(self.model)
        except Exception as error:
            log.warning("device.graph: steps run one by one, since %s", reason(error))
            self.forget()
            put_back(self, start)
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
            super().restore(optimizers)
            # After a capture that failed, PyTorch may take the old generator for one that is being captured still.
            rng.generator = torch.Generator(rng.device)
            rng.restore(random)

    def begin_epoch(self) -> None:
        super().begin_epoch()
        if self.replay is not None and self.known != python_state(self.model):
            log.warning("device.graph: steps run one by one, since the model changes between epochs more than tensors")
            kept = copy.deepcopy(self.state())
            self.forget()
            super().restore(kept)

    def record(self, start: dict[str, Tensor], random: Tensor) -> Callable[[], Scalars]:
        """Return the replay of a step that has stood the check; all is back at `start` and `random` then."""

        def step() -> Scalars:
            scalars = self.step(self.source.batch(self.indices), self.rng)
            return {name: value.detach() for name, value in scalars.items()}

        batches = self.indices.clone(), (self.indices + 1) % len(self.source)
        expected, others = self.rehearse(batches, random, is_rounded=True), self.rehearse(batches, random)
        self.prepare_optimizers()
        self.recorder.warm_up(step)
        for parameter in (one for params in self.params.values() for one in params):
            # Those that are made while recording stay, at addresses that it knows.
            parameter.grad = None
        replay = self.recorder.record(step, self.rng.generator)
        self.return_to(start, random)
        for batch, factor, one, other in zip(batches, FACTORS, expected, others, strict=True):
            self.fill_rates(factor)
            self.indices.copy_(batch)
            # Of a loss rounding explains little: here two plain steps have no more room than a recorded one.
            if found := difference(other.scalars, one.scalars, one.scalars, {}):
                raise Refused(f"two plain steps from one state differ: {found}")
            found = difference(replay(), one.scalars, one.scalars, {})
            found = found or difference(moving(self), one.moved, other.moved, start)
            if found or not torch.equal(self.rng.state(), one.random):
                raise Refused(f"a recorded step is another than a plain one: {found or 'its random numbers are'}")
        self.return_to(start, random)
        return replay

    def rehearse(self, batches: tuple[Tensor, ...], random: Tensor, is_rounded: bool = False) -> list[Result]:
        """Return what comes of the steps that a copy of all takes, its rates rounded to single precision or not.

        Raises Refused if a step changes what is neither a weight nor a buffer, which recording would freeze.
        """
        twin, rng = self.twin(), copy.copy(self.rng)
        twin.restore(copy.deepcopy(super().state()))
        if is_rounded:
            twin.rates = {name: torch.tensor(rates).tolist() for name, rates in self.rates.items()}
        rng.generator = torch.Generator(rng.device)
        rng.restore(random)
        before, results = python_state(twin.model), []
        for batch, factor in zip(batches, FACTORS, strict=True):
            twin.scale_rates(factor)
            scalars = {name: value.detach().clone() for name, value in twin.step_on(self.source, batch, rng).items()}
            results.append(Result(scalars, keep(twin), rng.state()))
        after = python_state(twin.model)
        if changed := [name for name in after.keys() | before.keys() if before.get(name) != after.get(name)]:
            raise Refused(f"each step changes '{min(changed)}' of the model, which is neither a weight nor a buffer")
        return results

    def prepare_optimizers(self) -> None:
        """Let the optimizers read their rates, and count their steps, in tensors on the device."""
        for name, optimizer in self.optimizers.items():
            groups = optimizer.param_groups
            self.capturable[name] = [{key: group[key] for key in ("capturable",) if key in group} for group in groups]
            for group in groups:
                if "capturable" in group:
                    group["capturable"] = True
                # The other ways of SGD read the rate on the host.
                elif not (isinstance(optimizer, SGD) and group.get("fused")):
                    raise Refused(f"{type(optimizer).__name__} cannot be recorded")
            for state in optimizer.state.values():
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(self.device.torch, torch.float32)
            self.rate_tensors[name] = [torch.full((), rate, device=self.device.torch) for rate in self.rates[name]]
            for group, tensor in zip(groups, self.rate_tensors[name], strict=True):
                group["lr"] = tensor

    def return_to(self, start: dict[str, Tensor], random: Tensor) -> None:
        """Bring weights, buffers, optimizers and rng back to a state, in the tensors that are there."""
        put_back(self, start)
        self.rng.restore(random)

    def state(self) -> dict[str, Mapping[str, Any]]:
        states = super().state()
        for name, settings in self.capturable.items():
            for group, own, rate in zip(states[name]["param_groups"], settings, self.rates[name], strict=True):
                group.update(own, lr=rate * self.factor)
        return states

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self.forget()
        self.was_recorded = False
        super().restore(state)

    def forget(self) -> None:
        """Be a plain engine again."""
        self.replay, self.rate_tensors, self.capturable = None, {}, {}
        for parameter in (one for params in self.params.values() for one in params):
            parameter.grad = None


def reason(error: BaseException) -> str:
    """Return in one line what an error began with."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    text = str(error).strip().splitlines()
    first = text[0] if text else "no reason given"
    return first if isinstance(error, Refused) else f"{type(error).__name__}: {first}"
