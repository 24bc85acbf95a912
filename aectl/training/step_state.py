"""The state that a step changes: copied, restored, and compared between two ways of running the step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import chain
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from aectl.training.engine import Engine

TOLERANCE, ROUNDING, SPREAD = 1e-3, 1e-6, 4.0
"""Tolerances of `find_difference` relative to a tensor's change, its norm, and the distance of two unrecorded steps."""
COLLECTIONS = (list, tuple, set, frozenset, deque, dict)


def mutable_tensors(engine: Engine) -> dict[str, Tensor]:
    """Return the tensors that a step may change in place by name: weights, buffers and optimizer states."""
    model = chain(engine.model.named_parameters(), engine.model.named_buffers())
    found = {f"model.{name}": tensor.detach() for name, tensor in model}
    for group, optimizer in engine.optimizers.items():
        for place, parameter in enumerate(engine.params[group]):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{group}.{place}.{key}"] = value
    return found


def copy_state(engine: Engine) -> dict[str, Tensor]:
    """Return copies of the tensors of `mutable_tensors`."""
    return {name: tensor.clone() for name, tensor in mutable_tensors(engine).items()}


@torch.no_grad()
def write_state(engine: Engine, kept: Mapping[str, Tensor]) -> None:
    """Write the values of `copy_state` into the current tensors.

    Tensors without a value were created by the first step of an optimizer, and are set to 0.
    """
    for name, tensor in mutable_tensors(engine).items():
        if name in kept:
            tensor.copy_(kept[name])
        else:
            tensor.zero_()


def find_difference(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
) -> str | None:
    """Describe how two results of steps from `start` differ by more than rounding; returns None if they do not.

    `other` is a second result of the same steps as `expected`, with different rounding. For each tensor,

        ‖found - expected‖ ≤ TOLERANCE ‖expected - start‖ + ROUNDING ‖expected‖ + SPREAD ‖expected - other‖

    must hold, where tensors missing from `start` count as 0. The last term is needed for Adam, which takes a full step
    even if a gradient is only rounding error, such as that of a bias before batch normalisation. Integers must be
    equal.
    """
    if found.keys() != expected.keys():
        return f"{min(found.keys() ^ expected.keys())} is in only one of the results"
    bad = []
    for name, wanted in expected.items():
        got = found[name].to(wanted.device)
        if wanted.is_floating_point():
            moved = wanted - start[name].to(wanted.device) if name in start else wanted
            off, way, size, spread = (
                float(torch.linalg.vector_norm(x)) for x in (got - wanted, moved, wanted, wanted - other[name])
            )
            # NaN or infinite norms count as different.
            is_same = off <= TOLERANCE * way + ROUNDING * size + SPREAD * spread < math.inf
        else:
            is_same = torch.equal(got, wanted)
        if not is_same:
            bad.append(name)
    return f"{bad[0]} has other values (and {len(bad) - 1} more)" if bad else None


def python_state(model: nn.Module) -> dict[str, Any]:
    """Return the attributes of all modules by dotted name, in a form that `==` compares.

    Weights and buffers are compared by identity, so that replacing a tensor counts as a change.
    """
    seen = {id(module) for module in model.modules()}
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers"):
                found |= {f"{path}.{key}".lstrip("."): Identity(tensor) for key, tensor in value.items()}
            elif name != "_modules":
                found[f"{path}.{name}".lstrip(".")] = to_comparable(value, seen)
    return found


class Identity:
    """Wrapper that compares an object by identity; it keeps the object alive, so that its address is not reused."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value


def to_comparable(value: Any, seen: set[int]) -> Any:
    """Return a nested value as strings, tuples, and tensors with their versions, so that `==` compares it.

    Classes and Python modules count as constant, and objects of C extensions change only if their `repr` does.
    """
    if isinstance(value, Tensor):
        return Identity(value), value._version
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, COLLECTIONS) or hasattr(value, "__dict__"):
        if id(value) in seen or isinstance(value, (type, ModuleType)):
            return None
        seen = {*seen, id(value)}
        inner = value if isinstance(value, COLLECTIONS) else vars(value)
        items = inner.items() if isinstance(inner, dict) else inner
        return type(value).__name__, tuple(to_comparable(item, seen) for item in items)
    return repr(value)
