"""Observer that warns of training that has failed although its losses are finite, e.g. of a collapsed generator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from aectl.models.base import Model
from aectl.system.terminal import first_line_of, format_significant
from aectl.training.baselines import compute_baselines, compute_metric
from aectl.training.trainer import Epoch, Observer

if TYPE_CHECKING:
    from aectl.models.base import Model
    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

QUIET_STEPS = 1000
"""Steps without alarms at the start of a run, since an untrained model looks like a failed one. At its end, a run is
checked however short it was.

On MNIST, the samples of the default GAN have .14 of the images' diversity after 430 steps, .23 after 860 and .33 after
1,290; on the digits, the KL divergence of a VAE is .03 nats after 22 steps."""

BASELINE_MARGINS = {"val/mse": 0.95}
"""Fraction of the baseline's value that a model must stay below, by metric; 1 for metrics that are not listed. A model
that returns the same grey blob for every digit has .97 of the mean image's error."""

BASELINE_ALARM = "no_better_than_"
"""Prefix of the names of alarms about baselines."""

TRAIN_LONGER = "train longer (epochs= or steps=)"


class Alarms(Observer):
    """Logs a warning for each new entry of the model's `alarms` after an epoch.

    At the end of training, it also warns if the model is no better than a baseline. In a run of fewer than
    `QUIET_STEPS` steps this is the only warning, since too little training explains the others.

    `known` has the alarms of the run so far by name, each with the `epoch` of its first occurrence and its text `said`.
    `save_alarms` is called with all of them when they change.
    """

    fatal = ()

    def __init__(
        self, known: Mapping[str, Mapping[str, object]], save_alarms: Callable[[dict[str, Mapping[str, object]]], None]
    ) -> None:
        self.known, self.save_alarms = dict(known), save_alarms
        self.best: Mapping[str, float] = {}
        self.has_raised = False

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        if epoch.is_best:
            self.best = epoch.metrics
        is_end = epoch.number >= epoch.total or trainer.has_stalled()
        is_short = trainer.epoch * trainer.steps_per_epoch < QUIET_STEPS
        if is_short and not is_end:
            return
        before = dict(self.known)
        if is_end:
            # A resumed run is compared with the baselines again.
            self.known = {name: alarm for name, alarm in before.items() if not name.startswith(BASELINE_ALARM)}
        found = self.call_alarms(trainer.model, epoch.metrics)
        if is_end and (is_short or not (found or self.known)):
            worse = compare_with_baselines(trainer, self.best or epoch.metrics)
            found = worse or found
        if is_short and found:
            name, said = next(iter(found.items()))
            found = {name: f"{said}; {TRAIN_LONGER}"}
        fresh = {name: said for name, said in found.items() if name not in self.known}
        for name, said in fresh.items():
            log.warning("epoch %d: %s", epoch.number, said)
            self.known[name] = {"epoch": epoch.number, "said": said}
        if self.known != before:
            self.save_alarms(self.known)

    def call_alarms(self, model: Model, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return the model's `alarms` on one line each; logs an exception once as a warning."""
        try:
            return {str(name): " ".join(str(said).split()) for name, said in model.alarms({**metrics}).items()}
        except Exception as error:
            if not self.has_raised:
                self.has_raised = True
                method = f"{type(model).__name__}.alarms"
                log.warning(
                    "model: %s raised %s, training continues: %s", method, type(error).__name__, first_line_of(error)
                )
                log.debug("%s", method, exc_info=error)
            return {}


def compare_with_baselines(trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return an alarm for the first baseline that the model's metrics do not beat, if any."""
    for baseline in compute_baselines(trainer):
        value = compute_metric(trainer, metrics, baseline.metric)
        if value >= BASELINE_MARGINS.get(baseline.metric, 1.0) * baseline.value:
            numbers = (
                f"{baseline.metric} {format_significant(value, 3)} against {format_significant(baseline.value, 3)}"
            )
            name = baseline.name.removeprefix("the ").replace(" ", "_")
            return {f"{BASELINE_ALARM}{name}": f"no better than {baseline.name}, {numbers}"}
    return {}
