"""Several trainers side by side: the steps of those that can share a program are taken as one, all else by each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from aectl.training.engine import Engine
from aectl.training.functional import NotFunctional, first_line
from aectl.training.fused import Fused, alike, attributes, release
from aectl.training.trainer import Trainer

WORTHWHILE = 8_000
"""Steps of all runs together that make up for the making of a program, about 2 s on a CPU, where each saves 0.3 ms."""


class End(NamedTuple):
    """How a trainer has ended: at its end, for the reason that it was told to stop for, or with an error."""

    number: int
    reason: str | None
    error: Exception | None


Result = Mapping[str, Tensor] | Exception
"""What a step of a run comes to: its scalars by name, or its error."""

Within = Callable[[int], AbstractContextManager[None]]
"""Gives what surrounds all that is done for the run of a number alone."""


class Steps(Protocol):
    """Takes the steps of several trainers."""

    def step(self, indices: Sequence[Tensor]) -> Sequence[Result]:
        """Run one step of each on its images; returns what each comes to."""


class Apart:
    """Takes the steps one after the other, as each run would alone."""

    def __init__(self, trainers: Mapping[int, Trainer], within: Within) -> None:
        self.trainers, self.within = trainers, within

    def step(self, indices: Sequence[Tensor]) -> list[Result]:
        """Run one step of each on its images; returns what each comes to."""
        results: list[Result] = []
        for (number, trainer), where in zip(self.trainers.items(), indices, strict=True):
            try:
                with self.within(number):
                    results.append(trainer.engine.step_on(trainer.examples, where, trainer.rng))
            except Exception as error:
                results.append(error)
        return results


class Together:
    """Drives trainers that stand at the same step.

    A run that ends, or fails, before the others leaves them; what is stacked is stacked anew without it. `in_one` is
    how many were in one program, at most, and `why` tells why some stage was not.
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        should_stop: Callable[[], str | None],
        within: Within = lambda number: contextlib.nullcontext(),
    ) -> None:
        self.trainers, self.should_stop, self.within = trainers, should_stop, within
        # Asked once a round: all of them stop behind the same step.
        self.reason: str | None = None
        self.in_one, self.why = 1, ""
        self.courses = [trainer.course(lambda: self.reason) for trainer in trainers]
        self.waiting: dict[int, Tensor] = {}

    def fit(self) -> Iterator[End]:
        """Train all of them, and yield how each has ended as soon as it has."""
        yield from self.advance(dict.fromkeys(range(len(self.trainers))))
        engines: list[Engine] = []
        while self.waiting:
            chosen = {number: self.trainers[number] for number in self.waiting}
            now = [trainer.engine for trainer in chosen.values()]
            if now != engines:
                # Another stage has begun, or a run has left.
                engines, steps = now, self.steps_of(chosen)
            elif next(iter(chosen.values())).step == 0:
                steps = self.still(steps, chosen)
            results = self.results_of(steps)
            self.reason = self.should_stop()
            yield from self.advance(dict(zip(self.waiting, results, strict=True)))

    def steps_of(self, trainers: Mapping[int, Trainer]) -> Steps:
        """Return what takes the steps of some trainers from here on."""
        apart = Apart(trainers, self.within)
        if len(trainers) == 1:
            return apart
        steps, why = fuse(list(trainers.values()), list(self.waiting.values()))
        if steps is None:
            self.why = f"stage '{next(iter(trainers.values())).stage.name}': {why}"
            return apart
        self.in_one = max(self.in_one, len(trainers))
        return steps

    def still(self, steps: Steps, trainers: Mapping[int, Trainer]) -> Steps:
        """Return the steps, or others where models have changed between two epochs what a program cannot see."""
        if not isinstance(steps, Fused) or steps.holds():
            return steps
        self.why = "the model changes between epochs more than tensors"
        return Apart(trainers, self.within)

    def results_of(self, steps: Steps) -> Sequence[Result]:
        """Return what a step of each comes to; an error that is no single run's is that of all."""
        try:
            return steps.step(list(self.waiting.values()))
        except Exception as error:
            return [error] * len(self.waiting)

    def advance(self, results: Mapping[int, Any]) -> Iterator[End]:
        """Give trainers what their steps came to, and take up where their next images are."""
        for number, own in results.items():
            self.waiting.pop(number, None)
            course = self.courses[number]
            try:
                with self.within(number):
                    if isinstance(own, Exception):
                        self.waiting[number] = course.throw(own)
                    else:
                        self.waiting[number] = course.send(own)
                continue
            except StopIteration as end:
                ended = End(number, end.value, None)
            except Exception as error:
                ended = End(number, None, error)
            release(self.trainers[number].model)
            yield ended


def fuse(trainers: Sequence[Trainer], indices: Sequence[Tensor]) -> tuple[Fused | None, str]:
    """Return the trainers' steps as one program, or None and why there can be none."""
    try:
        return Fused(trainers, indices), ""
    except NotFunctional as error:
        return None, str(error)
    except Exception as error:
        # What it is, the run that raises it shall say itself, at its step.
        return None, first_line(error)


def groups(trainers: Sequence[Trainer]) -> list[list[int]]:
    """Return the numbers of trainers that may share a program: the same model but for tensors, and the same steps."""
    found: list[tuple[list[Any], list[int]]] = []
    for number, trainer in enumerate(trainers):
        own = [place(trainer), *attributes(trainer.model)]
        same = next((numbers for known, numbers in found if alike(known, own)), None)
        if same is None:
            found.append((own, [number]))
        else:
            same.append(number)
    return [numbers for _, numbers in found]


def place(trainer: Trainer) -> tuple[Any, ...]:
    """Return where a trainer stands, and in what steps it goes."""
    device = trainer.device
    steps = (trainer.plan, trainer.epochs, trainer.largest_batch, trainer.batch_size, trainer.steps_per_epoch)
    images = (len(trainer.train_source), len(trainer.examples), int((trainer.train_source.labels >= 0).sum()))
    return (trainer.epoch, trainer.step, *steps, *images, *device.describe().values())


def why_apart(trainers: Sequence[Trainer]) -> str:
    """Return why trainers that are alike had better not share a program, or cannot; nothing if they should.

    On a CPU a step that keeps it busy gains nothing, and what is stacked no longer fits its caches: four steps at once
    of 64-32-8 took .62 of what they take one after the other, of 784-128-16 .98, of 784-1024-16 1.08.
    """
    first = trainers[0]
    if len(trainers) == 1:
        return "no other run in its process has its shape, settings and place"
    if first.device.graph or first.device.compile:
        # On an H100 eight recorded steps of 784-128-32 took 1.9 ms one after the other, 2.7 in one program.
        return "device.graph and device.compile are for the steps of each"
    if first.device.torch.type == "cpu":
        if not first.device.is_small:
            return "a step keeps the CPU busy"
        left = sum((trainer.epochs - trainer.epoch) * trainer.steps_per_epoch for trainer in trainers)
        if left < WORTHWHILE:
            return f"the {left:,} steps of {len(trainers)} runs are too few to make up for making a program"
    for trainer in trainers:
        trainer.model.train()
    some = torch.arange(first.batch_size, device=first.device.torch)
    return fuse(trainers, [some] * len(trainers))[1]
