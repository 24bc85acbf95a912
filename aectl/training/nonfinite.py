"""Whether all numbers of a run are finite, and if not, where they first were not.

A step is not held up by it: its losses stay on the device, and weights are looked at once an epoch, before a checkpoint
is written. Where something is wrong, the steps since the last checkpoint are taken again, this time with every loss,
gradient and weight looked at, to say which was the first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from aectl import parallel
from aectl.models.base import Batch, Loss
from aectl.rng import Rng
from aectl.system.terminal import significant
from aectl.training import checkpoint
from aectl.training.engine import Engine

if TYPE_CHECKING:
    from aectl.training.trainer import Trainer

log = logging.getLogger("aectl")

GRADIENT_NORM_EVERY = 10
"""Steps between two looks at the gradient's norm, which costs a pass over all parameters."""
ADVICE = "a lower optimizer.lr= may help"
"""What ends the message of a run that diverged."""


class NotFinite(ArithmeticError):
    """A loss, a gradient, a weight, or the objective, became infinite or not a number."""


def first_bad(tensors: Mapping[str, Tensor], exempt: frozenset[str] = frozenset()) -> str | None:
    """Return the name of the first tensor, but those exempt, with a number that is not finite; None if there is none.

    Where all their norms ‖t‖₂ are finite so are they, which takes one pass; the others are looked at one by one, since
    of numbers beyond 1e19 the squares overflow.
    """
    some = {name: tensor.detach() for name, tensor in tensors.items() if tensor.numel() and name not in exempt}
    if not some or bool(torch.stack(torch._foreach_norm(list(some.values()))).isfinite().all()):
        return None
    return next((name for name, tensor in some.items() if not bool(tensor.isfinite().all())), None)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return by name all numbers that a checkpoint has of a model: parameters, and buffers that are kept."""
    return {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor) and t.is_floating_point()}


def moments(engine: Engine) -> dict[str, Tensor]:
    """Return by name what the optimizers remember of each parameter, such as Adam's mean square of its gradient.

    Of gradients beyond 1e20 it overflows, although they and the weights do not, and these never move again.
    """
    names = {id(parameter): name for name, parameter in engine.model.named_parameters()}
    states = [(names.get(id(p), "a weight"), p, own) for o in engine.optimizers.values() for p, own in o.state.items()]
    return {
        f"the optimizer's {key} of {name}": tensor
        for name, parameter, own in states
        for key, tensor in own.items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.device == parameter.device
    }


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of buffers that are not finite by the model's own will, such as a mask of -∞."""
    buffers = {name: t for name, t in model.named_buffers() if t.is_floating_point()}
    return frozenset(name for name, tensor in buffers.items() if first_bad({name: tensor}))


def told(scalars: Mapping[str, float], place: str) -> str:
    """Return which of a step's scalars is the first that is not finite, and what the others are."""
    name = next(name for name, value in scalars.items() if not abs(value) < float("inf"))
    others = ", ".join(f"{other} {significant(value)}" for other, value in scalars.items() if other != name)
    return f"{name} is not finite at {place}" + (f": {others}" if others else "")


def check(trainer: Trainer, should_stop: Callable[[], str | None]) -> None:
    """Raise NotFinite if a loss, gradient or weight of the present epoch was not, in any of the processes.

    It names the step, and the term of the loss or the weight. Here the host reads for the first time in the epoch what
    its steps have come to.
    """
    trainer.meter.join()
    bad, norm = trainer.meter.first_bad(), trainer.norms.first_bad()
    name = first_bad(weights(trainer.model) | moments(trainer.engine), trainer.exempt)
    if not (bad or norm or name):
        return
    said = f"{name} is not finite after {trainer.place(trainer.step - 1)}"
    if norm:
        said = f"gradient_norm is not finite at {trainer.place(norm[0] * GRADIENT_NORM_EVERY)}"
    if bad:
        said = told(trainer.meter.row(bad[0]), trainer.place(bad[0]))
    found = retrace(trainer, bad[0] + 1 if bad else trainer.step, should_stop) or said
    raise NotFinite(f"{found}; {ADVICE}")


def retrace(trainer: Trainer, steps: int, should_stop: Callable[[], str | None]) -> str | None:
    """Return what goes wrong first from the last checkpoint, or the start, to the `steps`-th step of the epoch.

    None if nothing does, as where a GPU rounds otherwise this time, if it cannot be gone again, or if told to stop.
    Afterwards the trainer is somewhere on that way.
    """
    if parallel.count() > 1:
        # Each process would have to go along, and the followers have no checkpoint.
        return None
    log.info("not finite: the steps since the last checkpoint are taken again to find out where")
    try:
        trainer.restore(trainer.start or checkpoint.load(trainer.folder / "last.pt", trainer.device.torch))
        trainer.enter_stage()
        watch = Watch(trainer.model, trainer.stage, trainer.optimizer, trainer.device, trainer.grad_clip)
        watch.restore(trainer.engine.state())
        watch.exempt, trainer.engine = trainer.exempt, watch
        trainer.model.train()
        batches = trainer.batches()
        while trainer.step < steps and not should_stop():
            trainer.scale_rates()
            watch.place = trainer.place(trainer.step)
            watch.step_on(trainer.examples, batches[trainer.step], trainer.rng)
            trainer.step += 1
    except NotFinite as found:
        return str(found)
    except Exception as error:
        # It must not stand in the place of what is known already.
        log.debug("the steps cannot be taken again: %s", error)
    return None


class Watch(Engine):
    """An engine that looks at every loss, gradient and weight, and raises NotFinite, saying which, at the first."""

    place = ""
    exempt: frozenset[str] = frozenset()

    def losses(self, batch: Batch, rng: Rng) -> Iterator[Loss]:
        for loss in super().losses(batch, rng):
            scalars = {self.called(loss.group): loss.value, **(loss.metrics or {})}
            values = {name: float(value.detach()) for name, value in scalars.items()}
            if not all(abs(value) < float("inf") for value in values.values()):
                raise NotFinite(told(values, self.place))
            self.loss = f"{self.called(loss.group)} is {significant(values[self.called(loss.group)])}"
            yield loss

    def descend(self, group: str) -> None:
        chosen = {id(parameter) for parameter in self.params[group]}
        named = {name: p for name, p in self.model.named_parameters() if id(p) in chosen}
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        norms = {name: gradient.norm() for name, gradient in gradients.items()}
        if name := first_bad(gradients) or first_bad(norms):
            raise NotFinite(f"the gradient of {name} is not finite at {self.place}, though {self.loss}")
        super().descend(group)
        if name := first_bad(weights(self.model) | moments(self), self.exempt):
            raise NotFinite(f"{name} is not finite after {self.place}, though its gradient is")
