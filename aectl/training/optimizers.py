"""torch's optimizers without torch's compiler.

Their methods are wrapped to be left alone by it, and import it to say so: more than a second at the first step of each
process, and a part of every step, for what nothing here uses. What they compute is the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods of every optimizer that ask the compiler to leave them alone."""


def without_compiler() -> None:
    """Let optimizers be made, saved and restored without importing the compiler; where torch has changed, nothing."""
    for name in WRAPPED:
        method = getattr(getattr(Optimizer, name), "__wrapped__", None)
        # Under this name torch keeps what the compiler has made of a method: here, the method.
        if method is not None and not hasattr(method, "__dynamo_disable"):
            setattr(method, "__dynamo_disable", method)


def load(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Let an optimizer go on from its `state_dict()`, its steps counted where it counted them before.

    Adagrad reads its count on the host at every step; from a checkpoint that was read to a GPU, it would wait for it.
    """
    groups = optimizer.state_dict()["param_groups"]
    if len(groups) != len(state["param_groups"]) or not all(map(are_alike, groups, state["param_groups"])):
        raise ValueError("the optimizer has other groups of weights or settings")
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for number, slots in state["state"].items():
        if number >= len(weights) or any(not fits(slot, weights[number]) for slot in slots.values()):
            raise ValueError("the optimizer's memory is of other weights")
    places = {p: own["step"].device for p, own in optimizer.state.items() if isinstance(own.get("step"), Tensor)}
    optimizer.load_state_dict(dict(state))
    for parameter, place in places.items():
        own = optimizer.state[parameter]
        own["step"] = own["step"].to(place)


def are_alike(own: Any, stored: Any) -> bool:
    """Return whether a stored setting, or dict or list of them, is of the kind that the optimizer has."""
    if isinstance(own, dict):
        return isinstance(stored, dict) and all(key in stored and are_alike(own[key], stored[key]) for key in own)
    if isinstance(own, (list, tuple)):
        return isinstance(stored, (list, tuple)) and len(own) == len(stored) and all(map(are_alike, own, stored))
    numbers = (int, float, Tensor)
    return type(own) is type(stored) or (isinstance(own, numbers) and isinstance(stored, numbers))


def fits(slot: Any, weight: Tensor) -> bool:
    """Return whether what an optimizer remembers of a weight has its shape, or is a number."""
    return not isinstance(slot, Tensor) or slot.dim() == 0 or slot.shape == weight.shape


def step_of(optimizer: Optimizer) -> Callable[[], object]:
    """Return what steps an optimizer: of torch's own its bare step, which runs no hooks, of any other its step."""
    if not type(optimizer).__module__.startswith("torch.optim."):
        return optimizer.step
    bare = inspect.unwrap(type(optimizer).step)

    def step() -> object:
        with torch.no_grad():
            return bare(optimizer)

    return step
