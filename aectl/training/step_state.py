"""All that a step moves: kept, put back, and compared between two ways of running the same step."""

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
"""Between two ways of running a step a tensor may differ by these shares of the way it has moved, of its size, and of
what two plain runs differ by, all as Euclidean norms: a GPU may add up in another order."""
COLLECTIONS = (list, tuple, set, frozenset, deque, dict)


def moving(engine: Engine) -> dict[str, Tensor]:
    """Return by name what a step may change in place: weights, buffers and the tensors of the optimizers' states."""
    model = chain(engine.model.named_parameters(), engine.model.named_buffers())
    found = {f"model.{name}": tensor.detach() for name, tensor in model}
    for group, optimizer in engine.optimizers.items():
        for place, parameter in enumerate(engine.params[group]):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{group}.{place}.{key}"] = value
    return found


def keep(engine: Engine) -> dict[str, Tensor]:
    """Return copies of what `moving` gives."""
    return {name: tensor.clone() for name, tensor in moving(engine).items()}


@torch.no_grad()
def put_back(engine: Engine, kept: Mapping[str, Tensor]) -> None:
    """Write the numbers that `keep` returned into the tensors that are there now.

    What has no number in it was made by the first step of an optimizer, and begins at 0.
    """
    for name, tensor in moving(engine).items():
        if name in kept:
            tensor.copy_(kept[name])
        else:
            tensor.zero_()


def difference(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
) -> str | None:
    """Return what differs between two results of steps that began at `start`, by more than rounding explains, or None.

    `other` is `expected` found once more with other rounding. For each tensor, what `start` lacks having begun at 0,

        ‖found - expected‖ ≤ TOLERANCE ‖expected - start‖ + ROUNDING ‖expected‖ + SPREAD ‖expected - other‖

    must hold: Adam makes a step of full length from a gradient that is rounding alone, such as that of a bias before
    batch normalisation, and two plain runs differ there too. Whole numbers must be equal.
    """
    if found.keys() != expected.keys():
        return f"{min(found.keys() ^ expected.keys())} is there in one of the two ways only"
    bad = []
    for name, wanted in expected.items():
        got = found[name].to(wanted.device)
        if wanted.is_floating_point():
            moved = wanted - start[name].to(wanted.device) if name in start else wanted
            off, way, size, spread = (
                float(torch.linalg.vector_norm(x)) for x in (got - wanted, moved, wanted, wanted - other[name])
            )
            # A norm that is not finite is over every bound.
            is_same = off <= TOLERANCE * way + ROUNDING * size + SPREAD * spread < math.inf
        else:
            is_same = torch.equal(got, wanted)
        if not is_same:
            bad.append(name)
    return f"{bad[0]} comes out differently (and {len(bad) - 1} more)" if bad else None


def python_state(model: nn.Module) -> dict[str, Any]:
    """Return by dotted name what modules hold outside their weights and buffers, in a form that can be compared.

    Weights and buffers are there as objects: a new tensor in the place of an old one is another.
    """
    seen = {id(module) for module in model.modules()}
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers"):
                found |= {f"{path}.{key}".lstrip("."): Same(tensor) for key, tensor in value.items()}
            elif name != "_modules":
                found[f"{path}.{name}".lstrip(".")] = readable(value, seen)
    return found


class Same:
    """An object that equals itself alone; it is held, so that no other takes its address."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


def readable(value: Any, seen: set[int]) -> Any:
    """Return a value with all it holds as text, tuples, and tensors with their versions, so that == compares it.

    Classes, Python's modules and what C code hides are taken for constant, unless their text tells a change.
    """
    if isinstance(value, Tensor):
        return Same(value), value._version
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, COLLECTIONS) or hasattr(value, "__dict__"):
        if id(value) in seen or isinstance(value, (type, ModuleType)):
            return None
        seen = {*seen, id(value)}
        inner = value if isinstance(value, COLLECTIONS) else vars(value)
        items = inner.items() if isinstance(inner, dict) else inner
        return type(value).__name__, tuple(readable(item, seen) for item in items)
    return repr(value)
