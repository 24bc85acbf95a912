"""Checks that losses, gradients, weights and the optimizer's state are finite.

Losses stay on the device during an epoch, and weights are checked once per epoch before a checkpoint is written, so
that no step waits for the host.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aectl.system.terminal import format_significant
from aectl.training.engine import Engine

ADVICE = "a lower optimizer.lr= may help"
"""Ends the message of a run that diverged."""


class NotFinite(ArithmeticError):
    """A loss, a gradient, a weight or the objective is NaN or infinite."""


def first_bad(tensors: Mapping[str, Tensor], exempt: frozenset[str] = frozenset()) -> str | None:
    """Return the name of the first tensor with a NaN or infinite entry that is not in `exempt`, or None.

    If all norms ‖t‖₂ are finite, so are all tensors, which takes one pass. Otherwise each tensor is checked, since the
    squares of finite numbers beyond 1e19 overflow.
    """
    some = {name: tensor.detach() for name, tensor in tensors.items() if tensor.numel() and name not in exempt}
    if not some or bool(torch.stack(torch._foreach_norm(list(some.values()))).isfinite().all()):
        return None
    return next((name for name, tensor in some.items() if not bool(tensor.isfinite().all())), None)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point tensors of a model's state dict by name."""
    return {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor) and t.is_floating_point()}


def optimizer_state(engine: Engine) -> dict[str, Tensor]:
    """Return the state that the optimizers keep of each parameter by name, such as Adam's mean squared gradient.

    It overflows for gradients beyond 1e20, although gradients and weights do not, and such weights never move again.
    """
    names = engine.parameter_names()
    states = [(names.get(p, "a weight"), p, own) for o in engine.optimizers.values() for p, own in o.state.items()]
    return {
        f"the optimizer's {key} of {name}": tensor
        for name, parameter, own in states
        for key, tensor in own.items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.device == parameter.device
    }


def infinite_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of buffers that are infinite by design, such as a mask of -∞."""
    buffers = {name: t for name, t in model.named_buffers() if t.is_floating_point()}
    return frozenset(name for name, tensor in buffers.items() if first_bad({name: tensor}))


def describe_losses(scalars: Mapping[str, float], label: str) -> str:
    """Return a message that names the first non-finite scalar of a step and gives the others."""
    name = next(name for name, value in scalars.items() if not abs(value) < float("inf"))
    others = ", ".join(f"{other} {format_significant(value)}" for other, value in scalars.items() if other != name)
    return f"{name} is not finite at {label}" + (f": {others}" if others else "")
