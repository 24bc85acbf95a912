"""What is wrong with a model although its numbers are finite, said once a run: a warning, since nothing is lost yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aectl.training.observers import Epoch, Observer

if TYPE_CHECKING:
    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

FIRST_STEPS = 1000
"""Of a run, in which nothing is said: what has not learnt yet looks like what never will. On MNIST the samples of the
default GAN are as far apart as images by .14 after 430 steps, .23 after 860, and .33 after 1,290; on the digits the KL
of a VAE is .03 nats after 22 steps."""


class Alarms(Observer):
    """Asks the model after each epoch for its `alarms`, and warns of each that it has not warned of before.

    `known` are the alarms of the run so far, by name, and `tell` is given all of them when there is another; each has
    the `epoch` it was first heard in, and what it `said`.
    """

    def __init__(
        self, known: Mapping[str, Mapping[str, object]], tell: Callable[[dict[str, Mapping[str, object]]], None]
    ) -> None:
        self.known, self.tell = dict(known), tell

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        if trainer.epoch * trainer.steps_per_epoch < FIRST_STEPS:
            return
        fresh = {name: said for name, said in trainer.model.alarms(epoch.metrics).items() if name not in self.known}
        for name, said in fresh.items():
            log.warning("epoch %d: %s", epoch.number, said)
            self.known[name] = {"epoch": epoch.number, "said": said}
        if fresh:
            self.tell(self.known)
