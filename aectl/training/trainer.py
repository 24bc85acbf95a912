"""The training loop: steps the losses that a model yields, validates, keeps the best epoch, and can stop at any step.

The trainer depends neither on kinds of models nor on config files. Observers write and show everything.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from aectl import parallel
from aectl.config.did_you_mean import suggest_nearest
from aectl.data.datasets import Source
from aectl.models.base import Model, Stage
from aectl.parallel import batch_norm
from aectl.rng import Rng
from aectl.system.terminal import first_line_of
from aectl.training import checkpoint, cuda_graph, nonfinite
from aectl.training.device import Device
from aectl.training.engine import Engine
from aectl.training.meter import Meter
from aectl.training.model_checks import (
    ModelError,
    check_descriptions,
    check_loss,
    check_metrics,
    describe_method,
    groups_of,
    stages_of,
)
from aectl.training.nonfinite import NotFinite
from aectl.training.nonfinite_engine import NonfiniteEngine
from aectl.training.stages import check_batches, stage_at
from aectl.training.stop_signals import REASONS
from aectl.training.validation import validate

log = logging.getLogger("aectl")

GRADIENT_NORM_EVERY = 10
"""Steps between two measurements of the gradient norm, each of which costs a pass over all parameters."""
FEW = 8
"""Images in the batch from which the names of a model's metrics are found."""
ALWAYS = ("train/gradient_norm", "lr", "seconds")
"""Metrics of every epoch."""


class StageChanged(ValueError):
    """The checkpoint was written in another stage than its epoch has now."""


@dataclass(frozen=True)
class Epoch:
    """The metrics of one epoch; numbers count from 1 over all stages."""

    number: int
    total: int
    stage: str
    metrics: dict[str, float]
    is_best: bool


class Observer:
    """Base class of observers, which may neither change the model nor draw from its random numbers."""

    fatal: tuple[type[Exception], ...] = (Exception,)
    """Errors that end the run, because a promised file would be missing; any other is logged once as a warning."""
    has_failed = False

    def started(self, trainer: Trainer) -> None:
        """Called when training starts, or resumes after `trainer.epoch` epochs."""

    def stepped(self, trainer: Trainer) -> None:
        """Called after each step; reading a tensor here would stall the device."""

    def epoch_ended(self, trainer: Trainer, epoch: Epoch) -> None:
        """Called after an epoch has been validated and before its checkpoint is written."""

    def finished(self, trainer: Trainer) -> None:
        """Called when training has ended, has stopped or has failed."""


class Trainer:
    """Trains a model on a source, stage by stage.

    The order of the images and validation draw from forks of the seed; corruption and sampling draw from `rng`, whose
    state is in every checkpoint. A run that is stopped at any step and resumed ends as an uninterrupted run.
    """

    engine: Engine

    def __init__(
        self,
        model: Model,
        train: Source,
        valid: Source,
        optimizer: Callable[..., Optimizer],
        *,
        schedule: Callable[[int, int], float],
        device: Device,
        folder: Path,
        epochs: int,
        batch_size: int,
        seed: int = 0,
        objective: str | None = None,
        patience: int | None = None,
        grad_clip: float | None = None,
        observers: Sequence[Observer] = (),
        facts: dict[str, Any] | None = None,
    ) -> None:
        parallel.broadcast_weights(model.to(device.torch))
        batch_norm.share_statistics(model)
        self.model, self.train_source, self.valid_source = model, train, valid
        self.optimizer, self.schedule, self.device, self.folder = optimizer, schedule, device, folder
        self.largest_batch, self.patience, self.grad_clip = batch_size, patience, grad_clip
        self.observers, self.facts = observers, facts or {}
        self.rng = Rng(seed, device.torch, parallel.rank(), parallel.count()).fork("training")
        self.order, self.held_out = Rng(seed).fork("order"), Rng(seed, device.torch).fork("validation")
        self.plan = [(stage, stage.epochs or epochs) for stage in stages_of(model)]
        self.metric_descriptions = check_descriptions(model)
        self.epochs = sum(length for _, length in self.plan)
        for stage, _ in self.plan:
            check_batches(stage, len(train.labelled() if stage.labelled else train), batch_size)
        if not isinstance(model.objective, str):
            raise ModelError(f"{describe_method(model, 'objective')} is {model.objective!r}, not the name of a metric")
        # Without validation images, a model's own objective is measured on the training images.
        own = model.objective if len(valid) else model.objective.replace("val/", "train/", 1)
        self.objective = objective or own
        self.is_default_objective = not objective
        self.check_objective()
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.best_epoch, self.best_value = 0, float("inf")
        self.metrics: dict[str, float] = {}
        self.is_last_damaged = False
        self.meter, self.norms = Meter(device.torch), Meter(device.torch)
        self.exempt = nonfinite.infinite_buffers(model)
        self.start: dict[str, Any] | None = None
        self.begin_stage(*stage_at(self.plan, 0))

    def fit(self, should_stop: Callable[[], str | None] = lambda: None) -> str | None:
        """Train to the end, or until `should_stop` returns a reason; returns that reason, or None at the end.

        Raises NotFinite if a loss, gradient or weight is NaN or infinite; the last checkpoint is then left as it was.
        """
        # Before the first checkpoint, the search for the first non-finite number starts from here.
        self.start = None if self.epoch or self.step else copy.deepcopy(self.state())
        try:
            self.notify("started")
            while self.epoch < self.epochs and not self.has_stalled():
                if reason := self.run_epoch(should_stop):
                    self.check_finite(should_stop)
                    self.save("last")
                    return reason
            return None
        finally:
            with contextlib.ExitStack() as all_of_them:
                for observer in reversed(self.observers):
                    all_of_them.callback(self.call, observer, "finished")

    def run_epoch(self, should_stop: Callable[[], str | None]) -> str | None:
        """Run the remaining steps of the epoch, validate and save; returns the reason if stopped before its end."""
        self.enter_stage()
        self.model.train()
        self.engine.begin_epoch()
        started = time.monotonic() - self.seconds
        batches = self.batches()
        while self.step < self.steps_per_epoch:
            if reason := parallel.agree_on_reason(should_stop(), REASONS):
                self.seconds = time.monotonic() - started
                return reason
            self.scale_rates()
            self.record_step(self.engine.step_on(self.examples, parallel.take_part(batches[self.step]), self.rng))
        self.check_finite(should_stop)
        self.epoch += 1
        self.end_epoch(started)
        return None

    def batches(self) -> Sequence[torch.Tensor]:
        """Return the positions of the images in each batch of the current epoch."""
        order = self.order.fork(self.epoch).permutation(len(self.examples)).to(self.device.torch)
        return order.split(self.batch_size)

    def scale_rates(self) -> None:
        """Set the learning rates of the next step."""
        done = (self.epoch - self.stage_start) * self.steps_per_epoch + self.step
        self.engine.scale_rates(self.schedule(done, (self.stage_end - self.stage_start) * self.steps_per_epoch))

    def record_step(self, scalars: Mapping[str, torch.Tensor]) -> None:
        """Record the step's metrics, which stay on the device, and notify the observers."""
        self.meter.add(scalars)
        if self.step % GRADIENT_NORM_EVERY == 0:
            self.norms.add({"gradient_norm": self.engine.gradient_norm()})
        self.step += 1
        self.notify("stepped")

    def end_epoch(self, started: float) -> None:
        """Validate, notify the observers, and write the checkpoints of a finished epoch."""
        metrics = {f"train/{name}": value for name, value in {**self.meter.means(), **self.norms.means()}.items()}
        if len(self.valid_source):
            held_out = validate(self.model, self.valid_source, self.held_out.fork("noise"))
            metrics |= {f"val/{name}": value for name, value in held_out.items()}
        metrics |= {"lr": self.learning_rate(), "seconds": time.monotonic() - started}
        metrics = parallel.broadcast_numbers(metrics)
        is_best = self.update_best(metrics)
        self.metrics, self.step, self.seconds = metrics, 0, 0.0
        self.meter.reset()
        self.norms.reset()
        self.notify("epoch_ended", Epoch(self.epoch, self.epochs, self.stage.name, metrics, is_best))
        # Observers come first: after a crash in between, the epoch is trained again, and they drop their part of it.
        if is_best:
            self.save("best")
        self.save("last")
        self.start = None

    def update_best(self, metrics: dict[str, float]) -> bool:
        """Return whether this epoch is the best so far, and record it; raises as `objective_value`."""
        value = self.objective_value(metrics)
        # Only epochs of the current stage count, since an earlier stage is only a start for the later ones.
        if value >= self.best_value and self.best_epoch > self.stage_start:
            return False
        self.best_epoch, self.best_value = self.epoch, value
        return True

    def check_objective(self) -> None:
        """Raise ValueError, before any training, if no epoch will have a metric of the objective's name."""
        if self.objective in ALWAYS:
            return
        if self.objective.startswith("val/"):
            if not len(self.valid_source):
                raise ValueError(f"objective: {self.objective} needs validation images, and none are held out")
            names = self.validation_metrics()
        else:
            names = self.training_metrics()
        if self.objective in names:
            return
        choices = ", ".join(names)
        if self.is_default_objective and not len(self.valid_source):
            raise ValueError(
                f"objective: this model's own, {self.model.objective}, needs validation images, and none are held out "
                f"(dataset.valid=0)\n  hold some out, or choose objective= from {choices}"
            )
        raise ValueError(
            f"objective: no metric called '{self.objective}'"
            + suggest_nearest(self.objective, names, f"choose from {choices}")
        )

    def validation_metrics(self) -> list[str]:
        """Return the names of the validation metrics, found on a few held-out images."""
        self.model.eval()
        with torch.no_grad():
            found = self.model.validate(self.valid_source.first(FEW), self.held_out.fork("check"))
        return [f"val/{name}" for name in check_metrics(self.model, found)]

    def training_metrics(self) -> list[str]:
        """Return the names of the metrics that every stage logs, found by one step of a copy of the model."""
        found: list[list[str]] = []
        for stage, _ in self.plan:
            source = self.train_source.labelled() if stage.labelled else self.train_source
            few = source.first(FEW)
            model = copy.deepcopy(self.model).train()
            groups = groups_of(model, stage)
            is_alone = len(groups) == 1
            names = []
            for yielded in model.losses(few, stage, self.held_out.fork("check")):
                loss = check_loss(model, yielded, groups)
                names += ["loss" if is_alone else f"loss_{loss.group}", *(loss.metrics or ())]
            found.append([f"train/{name}" for name in dict.fromkeys(names)])
        return [name for name in found[0] if all(name in names for names in found)]

    def objective_value(self, metrics: Mapping[str, float]) -> float:
        """Return the objective of an epoch; raises ValueError if it is missing, NotFinite if it is NaN or infinite."""
        if self.objective not in metrics:
            # The name was checked before training, so no validation image has counted for this metric since.
            lacking = f"no metric called '{self.objective}'"
            if self.objective.startswith("val/"):
                lacking = f"{self.objective} needs validation images with labels, and there are none"
            raise ValueError(f"objective: {lacking}, choose from {', '.join(metrics)}")
        for name in (self.objective, *(name for name in metrics if name.startswith("val/loss"))):
            if not abs(metrics[name]) < float("inf"):
                raise NotFinite(f"{name} is {metrics[name]} after epoch {self.epoch}")
        return metrics[self.objective]

    def check_finite(self, should_stop: Callable[[], str | None]) -> None:
        """Raise NotFinite if a loss, gradient or weight of the current epoch is NaN or infinite, in any process.

        The message names the step, and the loss or the weight. This is the first time in the epoch that the host waits
        for the device.
        """
        self.meter.join()
        loss, norm = self.meter.first_bad(), self.norms.first_bad()
        tensors = nonfinite.weights(self.model) | nonfinite.optimizer_state(self.engine)
        name = nonfinite.first_bad(tensors, self.exempt)
        if not (loss or norm or name):
            return
        message = f"{name} is not finite after {self.label(self.step - 1)}"
        if norm:
            message = f"gradient_norm is not finite at {self.label(norm[0] * GRADIENT_NORM_EVERY)}"
        if loss:
            message = nonfinite.describe_losses(self.meter.row(loss[0]), self.label(loss[0]))
        found = self.find_nonfinite(loss[0] + 1 if loss else self.step, should_stop)
        raise NotFinite(f"{found or message}; {nonfinite.ADVICE}")

    def find_nonfinite(self, steps: int, should_stop: Callable[[], str | None]) -> str | None:
        """Repeat the epoch from the last checkpoint up to `steps`; returns what is first NaN or infinite.

        Returns None if nothing is, as when a GPU rounds differently the second time, if the steps cannot be repeated,
        or if stopped. The trainer's state is afterwards that of some step in between.
        """
        if parallel.count() > 1:
            # Every process would have to repeat the steps, and only process 0 has a checkpoint.
            return None
        log.info("not finite: repeating the steps since the last checkpoint to find out where")
        try:
            self.restore(self.start or checkpoint.load(self.folder / "last.pt", self.device.torch))
            self.enter_stage()
            checked = NonfiniteEngine(self.model, self.stage, self.optimizer, self.device, self.grad_clip)
            checked.restore(self.engine.state())
            checked.exempt, self.engine = self.exempt, checked
            self.model.train()
            batches = self.batches()
            while self.step < steps and not should_stop():
                self.scale_rates()
                checked.label = self.label(self.step)
                checked.step_on(self.examples, batches[self.step], self.rng)
                self.step += 1
        except NotFinite as found:
            return str(found)
        except Exception as error:
            # This error must not hide the one that was found first.
            log.debug("the steps cannot be repeated: %s", error)
        return None

    def has_stalled(self) -> bool:
        """Return whether the objective has not improved for `patience` epochs of the last stage."""
        is_last = self.stage_end == self.epochs
        return is_last and self.patience is not None and self.epoch - self.best_epoch >= self.patience

    def label(self, step: int) -> str:
        """Return a label for a step (from 0) of the current epoch, e.g. `step 3 of epoch 2 (fit)`."""
        return f"step {step + 1} of epoch {self.epoch + 1} ({self.stage.name})"

    def learning_rate(self) -> float:
        """Return the learning rate of the last step, that of the first group if there are several."""
        return float(self.engine.rate())

    def enter_stage(self) -> None:
        """Begin the stage of the current epoch if it is another one than before."""
        stage, first, end = stage_at(self.plan, self.epoch)
        if first != self.stage_start:
            self.begin_stage(stage, first, end)

    def begin_stage(self, stage: Stage, first: int, end: int) -> None:
        """Select the stage's images and create its optimizers."""
        self.stage, self.stage_start, self.stage_end = stage, first, end
        self.examples = self.train_source.labelled() if stage.labelled else self.train_source
        # A labelled stage may have fewer images than a batch; elsewhere that is a mistyped batch size.
        self.batch_size = min(self.largest_batch, len(self.examples)) if stage.labelled else self.largest_batch
        self.steps_per_epoch = len(self.examples) // self.batch_size
        self.engine = cuda_graph.make_engine(self.model, stage, self.optimizer, self.device, self.grad_clip)

    def notify(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of every observer."""
        for observer in self.observers:
            self.call(observer, event, *arguments)

    def call(self, observer: Observer, event: str, *arguments: Any) -> None:
        """Call the method `event` of an observer; logs an error that is not fatal, once per observer."""
        try:
            getattr(observer, event)(self, *arguments)
        except observer.fatal:
            raise
        except Exception as error:
            # An observer calls methods of the model, which may be the user's own and raise anything.
            if not observer.has_failed:
                observer.has_failed = True
                name = type(observer).__name__
                log.warning("%s failed, training continues: %s: %s", name, type(error).__name__, first_line_of(error))
                log.debug("%s.%s", name, event, exc_info=error)

    def save(self, name: str) -> None:
        """Write the checkpoint `name`: 'best' holds what evaluation needs, 'last' also what a resume needs.

        In a multi-process run, only process 0 writes.
        """
        if parallel.rank() > 0:
            return
        own = {"model": checkpoint.copy_slices(self.model.state_dict()), "epoch": self.epoch, **self.facts}
        if name != "last":
            checkpoint.save(self.folder / f"{name}.pt", own)
            return
        before = None if self.is_last_damaged else self.folder / checkpoint.BEFORE
        checkpoint.save(self.folder / checkpoint.LAST, own | self.state(), before)
        self.is_last_damaged = False

    def state(self) -> dict[str, Any]:
        """Return everything a resume needs; `restore` loads it."""
        return {
            "model": checkpoint.copy_slices(self.model.state_dict()),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "stage": self.stage.name,
            "optimizers": self.engine.state(),
            "rng": self.rng.state(),
            "meter": self.meter.state(),
            "norms": self.norms.state(),
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "metrics": self.metrics,
            "epochs": self.epochs,
        }

    def restore(self, state: dict[str, Any], is_last_damaged: bool = False) -> None:
        """Load a checkpoint's state; `is_last_damaged` keeps a damaged `last.pt` from replacing its predecessor."""
        self.is_last_damaged = is_last_damaged
        self.model.load_state_dict(state["model"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        # Between two stages, the checkpoint may belong to either.
        for epoch in (max(self.epoch - 1, 0), self.epoch):
            if stage_at(self.plan, epoch)[0].name == state["stage"]:
                self.begin_stage(*stage_at(self.plan, epoch))
                break
        else:
            now = stage_at(self.plan, self.epoch)[0].name
            raise StageChanged(f"after epoch {self.epoch} the run was in stage '{state['stage']}', not in '{now}'")
        self.engine.restore(state["optimizers"])
        self.rng.restore(state["rng"])
        self.meter.restore(state["meter"])
        self.norms.restore(state["norms"])
        self.best_epoch, self.best_value = state["best_epoch"], state["best_value"]
        self.metrics = dict(state["metrics"])

    def schedule_changes(self, epochs_before: int) -> bool:
        """Return whether the steps so far would have had other learning rates with the current number of epochs."""
        done = (self.epoch - self.stage_start) * self.steps_per_epoch + self.step
        old_total = (epochs_before - self.stage_start) * self.steps_per_epoch
        new_total = (self.stage_end - self.stage_start) * self.steps_per_epoch
        return any(self.schedule(i, old_total) != self.schedule(i, new_total) for i in range(done))
