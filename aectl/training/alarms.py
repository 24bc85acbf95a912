"""What is wrong with a model although its numbers are finite, said once a run: a warning, since nothing is lost yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aectl.models.base import Model
from aectl.system.terminal import reason_of, significant
from aectl.training.baselines import cheap_baselines, value_of
from aectl.training.trainer import Epoch, Observer

if TYPE_CHECKING:
    from aectl.models.base import Model
    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

FIRST_STEPS = 1000
"""Of a run, in which nothing is said: what has not learnt yet looks like what never will. On MNIST the samples of the
default GAN are as far apart as images by .14 after 430 steps, .23 after 860, and .33 after 1,290; on the digits the KL
of a VAE is .03 nats after 22 steps. At its end a run is judged however short it was."""

HARDLY_BETTER = {"val/mse": 0.95}
"""Share of a baseline's value, by metric, from which on a model is no better: 1 where a metric is not listed. A grey
blob for every digit has .97 of the mean image's error."""

NO_BETTER = "no_better_than_"
"""What the names of alarms about baselines begin with."""

LONGER = "train longer (epochs= or steps=)"


class Alarms(Observer):
    """Asks the model after each epoch for its `alarms`, and warns of each that it has not warned of before.

    When training ends, a model that is no better than a baseline is warned of too. In a run of few steps that is the
    only warning, since it is most likely the reason of the others.

    `known` are the alarms of the run so far, by name, and `tell` is given all of them when there is another; each has
    the `epoch` it was first heard in, and what it `said`.
    """

    fatal = ()

    def __init__(
        self, known: Mapping[str, Mapping[str, object]], tell: Callable[[dict[str, Mapping[str, object]]], None]
    ) -> None:
        self.known, self.tell = dict(known), tell
        self.best: Mapping[str, float] = {}
        self.has_raised = False

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        if epoch.is_best:
            self.best = epoch.metrics
        is_end = epoch.number >= epoch.total or trainer.has_stalled()
        is_short = trainer.epoch * trainer.steps_per_epoch < FIRST_STEPS
        if is_short and not is_end:
            return
        before = dict(self.known)
        if is_end:
            # Of a run that was resumed, they are judged anew.
            self.known = {name: alarm for name, alarm in before.items() if not name.startswith(NO_BETTER)}
        found = self.ask(trainer.model, epoch.metrics)
        if is_end and (is_short or not (found or self.known)):
            worse = no_better(trainer, self.best or epoch.metrics)
            found = worse or found
        if is_short and found:
            name, said = next(iter(found.items()))
            found = {name: f"{said}; {LONGER}"}
        fresh = {name: said for name, said in found.items() if name not in self.known}
        for name, said in fresh.items():
            log.warning("epoch %d: %s", epoch.number, said)
            self.known[name] = {"epoch": epoch.number, "said": said}
        if self.known != before:
            self.tell(self.known)

    def ask(self, model: Model, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return what the model's `alarms` say; that they raise is a warning, once."""
        try:
            return {str(name): " ".join(str(said).split()) for name, said in model.alarms({**metrics}).items()}
        except Exception as error:
            if not self.has_raised:
                self.has_raised = True
                method = f"{type(model).__name__}.alarms"
                log.warning(
                    "model: %s raised %s, training continues: %s", method, type(error).__name__, reason_of(error)
                )
                log.debug("%s", method, exc_info=error)
            return {}


def no_better(trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return a sentence for the first baseline that the model's metrics of an epoch do not beat, if there is one."""
    for baseline in cheap_baselines(trainer):
        value = value_of(trainer, metrics, baseline.metric)
        if value >= HARDLY_BETTER.get(baseline.metric, 1.0) * baseline.value:
            numbers = f"{baseline.metric} {significant(value, 3)} against {significant(baseline.value, 3)}"
            name = baseline.name.removeprefix("the ").replace(" ", "_")
            return {f"{NO_BETTER}{name}": f"no better than {baseline.name}, {numbers}"}
    return {}
