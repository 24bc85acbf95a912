"""torch's optimizers without importing torch's compiler.

torch wraps optimizer methods in `torch._disable_dynamo`, which imports the compiler at the first call: that takes more
than a second in each process, and slows down every step. Without the wrappers, optimizers compute the same numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

WRAPPED_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Wrapped methods of every optimizer."""


def bypass_compiler() -> None:
    """Create, save and load optimizers without importing the compiler; has no effect if torch's wrappers differ."""
    for name in WRAPPED_METHODS:
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)
        # torch caches the wrapped method under this name; here it is the method itself.
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)


def load_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a `state_dict()` and keep step counts on their device; raises ValueError if it does not fit.

    Adagrad reads its step count on the host at every step; on a GPU, each step would wait for it.
    """
    groups = optimizer.state_dict()["param_groups"]
    if len(groups) != len(state["param_groups"]) or not all(map(are_alike, groups, state["param_groups"])):
        raise ValueError("the optimizer has other groups of weights or settings")
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for number, slots in state["state"].items():
        if number >= len(weights) or any(not has_matching_shape(slot, weights[number]) for slot in slots.values()):
            raise ValueError("the optimizer's state belongs to other weights")
    places = {p: own["step"].device for p, own in optimizer.state.items() if isinstance(own.get("step"), Tensor)}
    optimizer.load_state_dict(dict(state))
    for parameter, place in places.items():
        own = optimizer.state[parameter]
        own["step"] = own["step"].to(place)


def are_alike(own: Any, stored: Any) -> bool:
    """Return whether a stored setting, or a dict or list of settings, has the types of the optimizer's own."""
    if isinstance(own, dict):
        return isinstance(stored, dict) and all(key in stored and are_alike(own[key], stored[key]) for key in own)
    if isinstance(own, (list, tuple)):
        return isinstance(stored, (list, tuple)) and len(own) == len(stored) and all(map(are_alike, own, stored))
    numbers = (int, float, Tensor)
    return type(own) is type(stored) or (isinstance(own, numbers) and isinstance(stored, numbers))


def has_matching_shape(slot: Any, weight: Tensor) -> bool:
    """Return whether an entry of a weight's optimizer state is a number or has the weight's shape."""
    return not isinstance(slot, Tensor) or slot.dim() == 0 or slot.shape == weight.shape


def make_step(optimizer: Optimizer) -> Callable[[], object]:
    """Return the step function of an optimizer; for torch's own, the one without wrappers and hooks."""
    if not type(optimizer).__module__.startswith("torch.optim."):
        return optimizer.step
    bare = inspect.unwrap(type(optimizer).step)

    def step() -> object:
        with torch.no_grad():
            return bare(optimizer)

    return step
