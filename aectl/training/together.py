"""Several trainers side by side: the steps of those that can share a program are taken as one, all else by each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from torch import Tensor

from aectl.training.fused import Fused, NotFusable, alike, attributes
from aectl.training.trainer import Trainer

WORTHWHILE = 8_000
"""Steps of all runs together that make up for the making of a program, about 2 s on a CPU, where each saves 0.3 ms."""


class End(NamedTuple):
    """How a trainer has ended: at its end, for the reason that it was told to stop for, or with an error."""

    number: int
    reason: str | None
    error: Exception | None


class Steps(Protocol):
    """Takes the steps of several trainers."""

    def step(self, indices: Sequence[Tensor]) -> list[Mapping[str, Tensor]]:
        """Run one step of each on its images; returns each one's scalars by name."""


class Apart:
    """Takes the steps one after the other, as each run would alone."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = trainers

    def step(self, indices: Sequence[Tensor]) -> list[Mapping[str, Tensor]]:
        """Run one step of each on its images; returns each one's scalars by name."""
        return [
            trainer.engine.step_on(trainer.examples, where, trainer.rng)
            for trainer, where in zip(self.trainers, indices, strict=True)
        ]


class Together:
    """Drives trainers that stand at the same step; `within(number)` surrounds all that is done for one of them alone.

    A run that ends, or fails, before the others leaves them; what is stacked is stacked anew without it. `in_one` is
    how many were in one program, at most, and `why` tells why some stage was not.
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        should_stop: Callable[[], str | None],
        within: Callable[[int], AbstractContextManager] = lambda number: contextlib.nullcontext(),
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
        stages, steps = [], None
        while self.waiting:
            chosen = [self.trainers[number] for number in self.waiting]
            if stages != (stages := [trainer.engine for trainer in chosen]):
                steps = self.steps_of(chosen)
            try:
                results = steps.step(list(self.waiting.values()))
            except Exception as error:
                results = [error] * len(chosen)
            self.reason = self.should_stop()
            yield from self.advance(dict(zip(self.waiting, results, strict=True)))

    def steps_of(self, trainers: Sequence[Trainer]) -> Steps:
        """Return what takes the steps of some trainers from here on."""
        if len(trainers) == 1:
            return Apart(trainers)
        try:
            steps = Fused(trainers, list(self.waiting.values()))
        except NotFusable as error:
            self.why = f"stage '{trainers[0].stage.name}': {error}"
            return Apart(trainers)
        self.in_one = max(self.in_one, len(trainers))
        return steps

    def advance(self, results: Mapping[int, Mapping[str, Tensor] | Exception | None]) -> Iterator[End]:
        """Give trainers the scalars, or the error, of their steps, and take up where their next images are."""
        for number, own in results.items():
            self.waiting.pop(number, None)
            go_on = self.courses[number].throw if isinstance(own, Exception) else self.courses[number].send
            try:
                with self.within(number):
                    self.waiting[number] = go_on(own)
            except StopIteration as end:
                yield End(number, end.value, None)
            except Exception as error:
                yield End(number, None, error)


def groups(trainers: Sequence[Trainer]) -> list[list[int]]:
    """Return the numbers of trainers that may share a program: the same model but for tensors, and the same steps."""
    found: list[tuple[list, list[int]]] = []
    for number, trainer in enumerate(trainers):
        own = [place(trainer), *attributes(trainer.model)]
        same = next((numbers for known, numbers in found if alike(known, own)), None)
        if same is None:
            found.append((own, [number]))
        else:
            same.append(number)
    return [numbers for _, numbers in found]


def place(trainer: Trainer) -> tuple:
    """Return where a trainer stands, and in what steps it goes."""
    device = trainer.device
    steps = (trainer.plan, trainer.epochs, trainer.largest_batch, trainer.steps_per_epoch)
    return (trainer.epoch, trainer.step, *steps, str(device.torch), device.precision)


def why_apart(trainers: Sequence[Trainer]) -> str:
    """Return why trainers that could share a program had better not; nothing if they should.

    On a CPU a step that keeps it busy gains nothing, and what is stacked no longer fits its caches: four steps at once
    of 64-32-8 took .62 of what they take one after the other, of 784-128-16 .98, of 784-1024-16 1.08.
    """
    first = trainers[0]
    if len(trainers) == 1:
        return "no other run has its shape"
    if first.device.torch.type != "cpu":
        return ""
    if not first.device.is_small:
        return "a step keeps the CPU busy"
    left = sum((trainer.epochs - trainer.epoch) * trainer.steps_per_epoch for trainer in trainers)
    return "" if left >= WORTHWHILE else f"{left:,} steps are too few to make up for making a program"
