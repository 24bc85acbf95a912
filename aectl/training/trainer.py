"""The one trainer of all models: it steps what they yield, validates, keeps the best, and can stop at any step.

It knows neither kinds of models nor configuration files; what is written or shown is left to observers.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from aectl import parallel
from aectl.data.datasets import Source
from aectl.models.base import Model, Stage
from aectl.parallel import batch_norm
from aectl.rng import Rng
from aectl.training import checkpoint, cuda_graph, nonfinite
from aectl.training import objective as objectives
from aectl.training.device import Device
from aectl.training.meter import Meter
from aectl.training.model_checks import stages_of
from aectl.training.nonfinite import GRADIENT_NORM_EVERY
from aectl.training.observers import Epoch, Observer, notify
from aectl.training.stages import check_batches, stage_at
from aectl.training.stop_signals import REASONS
from aectl.training.validation import validate


class StageChanged(ValueError):
    """A checkpoint of another stage than its epoch would have now."""


class Trainer:
    """Trains a model on a source, stage by stage.

    `order` and validation draw from forks of the seed, corruption and sampling from `rng`, whose state is in every
    checkpoint: a run stopped at any step and resumed goes on as if nothing had happened.
    """

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
        parallel.match(model.to(device.torch))
        batch_norm.share(model)
        self.model, self.train_source, self.valid_source = model, train, valid
        self.optimizer, self.schedule, self.device, self.folder = optimizer, schedule, device, folder
        self.largest_batch, self.patience, self.grad_clip = batch_size, patience, grad_clip
        self.observers, self.facts = observers, facts or {}
        self.rng = Rng(seed, device.torch, parallel.rank(), parallel.count()).fork("training")
        self.order, self.held_out = Rng(seed).fork("order"), Rng(seed, device.torch).fork("validation")
        self.plan = [(stage, stage.epochs or epochs) for stage in stages_of(model)]
        self.epochs = sum(length for _, length in self.plan)
        for stage, _ in self.plan:
            check_batches(stage, len(train.labelled() if stage.labelled else train), batch_size)
        self.objective = objective or objectives.default(model, len(valid))
        self.is_default_objective = not objective
        objectives.check(self)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.best_epoch, self.best_value = 0, float("inf")
        self.metrics: dict[str, float] = {}
        self.is_last_spoilt = False
        self.meter, self.norms = Meter(device.torch), Meter(device.torch)
        self.exempt = nonfinite.infinite_buffers(model)
        self.start: dict[str, Any] | None = None
        self.begin_stage(*stage_at(self.plan, 0))

    def fit(self, should_stop: Callable[[], str | None] = lambda: None) -> str | None:
        """Train to the end, or until `should_stop` gives a reason; returns that reason, or None at the end.

        Raises NotFinite if a loss, or a weight, is; the last good checkpoint is then left as it was.
        """
        # Until there is a checkpoint, what a search for the first bad step begins with.
        self.start = None if self.epoch or self.step else copy.deepcopy(self.state())
        try:
            self.notify("started")
            while self.epoch < self.epochs and not self.has_stalled():
                if reason := self.run_epoch(should_stop):
                    nonfinite.check(self, should_stop)
                    self.save("last")
                    return reason
            return None
        finally:
            with contextlib.ExitStack() as all_of_them:
                for observer in reversed(self.observers):
                    all_of_them.callback(notify, observer, "finished", self)

    def run_epoch(self, should_stop: Callable[[], str | None]) -> str | None:
        """Run the remaining steps of the epoch, validate and save; returns the reason if told to stop before."""
        self.enter_stage()
        self.model.train()
        self.engine.begin_epoch()
        started = time.monotonic() - self.seconds
        batches = self.batches()
        while self.step < self.steps_per_epoch:
            if reason := parallel.agreed(should_stop(), REASONS):
                self.seconds = time.monotonic() - started
                return reason
            self.scale_rates()
            self.take_in(self.engine.step_on(self.examples, parallel.part(batches[self.step]), self.rng))
        nonfinite.check(self, should_stop)
        self.epoch += 1
        self.account(started)
        return None

    def batches(self) -> Sequence[torch.Tensor]:
        """Return the positions of the images of each batch of the present epoch."""
        order = self.order.fork(self.epoch).permutation(len(self.examples)).to(self.device.torch)
        return order.split(self.batch_size)

    def scale_rates(self) -> None:
        """Set the learning rates of the step to come."""
        done = (self.epoch - self.stage_start) * self.steps_per_epoch + self.step
        self.engine.scale_rates(self.schedule(done, (self.stage_end - self.stage_start) * self.steps_per_epoch))

    def take_in(self, scalars: Mapping[str, torch.Tensor]) -> None:
        """Record the step's metrics."""
        self.meter.add(scalars)
        if self.step % GRADIENT_NORM_EVERY == 0:
            self.norms.add({"gradient_norm": self.engine.gradient_norm()})
        self.step += 1
        self.notify("stepped")

    def account(self, started: float) -> None:
        """Validate, tell the observers, and write the checkpoints of a finished epoch."""
        metrics = {f"train/{name}": value for name, value in {**self.meter.means(), **self.norms.means()}.items()}
        if len(self.valid_source):
            held_out = validate(self.model, self.valid_source, self.held_out.fork("noise"))
            metrics |= {f"val/{name}": value for name, value in held_out.items()}
        metrics |= {"lr": self.learning_rate(), "seconds": time.monotonic() - started}
        metrics = parallel.leaders(metrics)
        is_best = self.judge(metrics)
        self.metrics, self.step, self.seconds = metrics, 0, 0.0
        self.meter.reset()
        self.norms.reset()
        self.notify("epoch_ended", Epoch(self.epoch, self.epochs, self.stage.name, metrics, is_best))
        # Observers first: after a crash in between, the epoch is done again and they drop what is theirs of it.
        if is_best:
            self.save("best")
        self.save("last")
        self.start = None

    def judge(self, metrics: dict[str, float]) -> bool:
        """Return whether this epoch is the best so far; raises NotFinite or ValueError for an unusable objective."""
        value = objectives.value(self, metrics)
        # What a stage before the last one is good for, only the stages behind it can tell.
        if value >= self.best_value and self.best_epoch > self.stage_start:
            return False
        self.best_epoch, self.best_value = self.epoch, value
        return True

    def has_stalled(self) -> bool:
        """Return whether the objective has not improved for `patience` epochs of the last stage."""
        is_last = self.stage_end == self.epochs
        return is_last and self.patience is not None and self.epoch - self.best_epoch >= self.patience

    def place(self, step: int) -> str:
        """Return how a step (from 0) of the present epoch is called."""
        return f"step {step + 1} of epoch {self.epoch + 1} ({self.stage.name})"

    def learning_rate(self) -> float:
        """Return the learning rate of the last step, of the first group if there are several."""
        return float(self.engine.rate())

    def enter_stage(self) -> None:
        """Make new optimizers if the present epoch opens another stage."""
        stage, first, end = stage_at(self.plan, self.epoch)
        if first != self.stage_start:
            self.begin_stage(stage, first, end)

    def begin_stage(self, stage: Stage, first: int, end: int) -> None:
        """Make ready for a stage: its images, and fresh optimizers."""
        self.stage, self.stage_start, self.stage_end = stage, first, end
        self.examples = self.train_source.labelled() if stage.labelled else self.train_source
        # Of the few labelled images of a stage all make a batch; otherwise that would be a mistyped size.
        self.batch_size = min(self.largest_batch, len(self.examples)) if stage.labelled else self.largest_batch
        self.steps_per_epoch = len(self.examples) // self.batch_size
        self.engine = cuda_graph.engine(self.model, stage, self.optimizer, self.device, self.grad_clip)

    def notify(self, event: str, *arguments: Any) -> None:
        """Call the method `event` of every observer."""
        for observer in self.observers:
            notify(observer, event, self, *arguments)

    def save(self, name: str) -> None:
        """Write the checkpoint `name`; 'best' holds what evaluation needs, 'last' what a resume needs besides.

        Of several processes the first one writes it.
        """
        if parallel.rank() > 0:
            return
        own = {"model": checkpoint.own(self.model.state_dict()), "epoch": self.epoch, **self.facts}
        if name != "last":
            checkpoint.save(self.folder / f"{name}.pt", own)
            return
        before = None if self.is_last_spoilt else self.folder / checkpoint.BEFORE
        checkpoint.save(self.folder / checkpoint.LAST, own | self.state(), before)
        self.is_last_spoilt = False

    def state(self) -> dict[str, Any]:
        """Return all that a run goes on from, as it is now; `restore` takes it up."""
        return {
            "model": checkpoint.own(self.model.state_dict()),
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

    def restore(self, state: dict[str, Any], is_last_spoilt: bool = False) -> None:
        """Go on from a 'last' checkpoint, or the one before; a spoilt last one will not take the place of that."""
        self.is_last_spoilt = is_last_spoilt
        self.model.load_state_dict(state["model"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        # At the border of two stages the checkpoint may be of either.
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
        """Return whether the steps already run would have had other learning rates with today's number of epochs."""
        done = (self.epoch - self.stage_start) * self.steps_per_epoch + self.step
        old_total = (epochs_before - self.stage_start) * self.steps_per_epoch
        new_total = (self.stage_end - self.stage_start) * self.steps_per_epoch
        return any(self.schedule(i, old_total) != self.schedule(i, new_total) for i in range(done))
