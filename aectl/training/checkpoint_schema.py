"""Types of the entries of a checkpoint, checked when it is read, so that later code can rely on them."""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

STORAGE_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
ALLOWED_CALLS = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    *(f"torch {kind}Storage" for kind in STORAGE_TYPES),
)
"""The only functions that a checkpoint's pickle may call; others, such as bytearray, could allocate any memory."""
MAX_INT = 2**53
"""Bound of the integers in a checkpoint; a float represents all smaller ones."""


class SchemaError(ValueError):
    """A checkpoint has a value that aectl does not write there; the message names it."""


def check_pickle(content: bytes) -> None:
    """Raise SchemaError if a pickle calls a function that is not in `ALLOWED_CALLS`."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise SchemaError(f"its pickle uses {opcode.name}")
        if opcode.name == "GLOBAL" and argument not in ALLOWED_CALLS:
            raise SchemaError(f"its pickle calls {argument}")


def check_tensors(state: Any) -> None:
    """Raise SchemaError unless every tensor is fully stored; copying an expanded tensor could take any memory."""
    for tensor in iterate_tensors(state):
        if not has_full_storage(tensor):
            raise SchemaError("a tensor declares more numbers than the file has")


def iterate_tensors(state: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested dicts, lists and tuples, visiting each container once."""
    seen, left = set(), [state]
    while left:
        value = left.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left += [*value.keys(), *value.values()] if isinstance(value, dict) else value


def has_full_storage(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, real, and no larger than its storage."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def check_resumable(state: Mapping[str, Any]) -> None:
    """Raise SchemaError unless a checkpoint has every field that `Trainer.restore` reads, with a valid value."""
    for key, is_right in FIELDS.items():
        if key not in state:
            raise SchemaError(f"it lacks '{key}'")
        if not is_right(state[key]):
            raise SchemaError(f"its '{key}' is not what aectl writes there")


def is_count(value: Any) -> bool:
    """Return whether a value is a non-negative integer."""
    return type(value) is int and 0 <= value < MAX_INT


def is_real(value: Any) -> bool:
    """Return whether a value is a number other than NaN and -∞; +∞ is the objective before the first epoch."""
    if type(value) is int:
        return abs(value) < MAX_INT
    return type(value) is float and not math.isnan(value) and value > -math.inf


def is_seconds(value: Any) -> bool:
    """Return whether a value is a finite, non-negative number."""
    return is_real(value) and 0 <= value < math.inf


def is_metrics(value: Any) -> bool:
    """Return whether a value is a dict of numbers by name."""
    return isinstance(value, dict) and all(isinstance(k, str) and type(v) in (int, float) for k, v in value.items())


def is_meter(value: Any) -> bool:
    """Return whether a value is the state of a Meter: names, and a matrix of floats [steps, names]."""
    if not isinstance(value, dict) or not isinstance(value.get("names"), list):
        return False
    rows, names = value.get("rows"), value["names"]
    if not isinstance(rows, Tensor) or rows.dim() != 2 or not rows.is_floating_point():
        return False
    return rows.shape[1] == len(names) and all(isinstance(name, str) for name in names)


def is_optimizer(value: Any) -> bool:
    """Return whether a value is an optimizer's `state_dict()`."""
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    return (
        isinstance(groups, list)
        and all(isinstance(group, dict) and is_list_of_counts(group.get("params")) for group in groups)
        and all(is_count(weight) and is_optimizer_slots(slots) for weight, slots in value["state"].items())
    )


def is_list_of_counts(value: Any) -> bool:
    """Return whether a value is a list of non-negative integers."""
    return isinstance(value, list) and all(map(is_count, value))


def is_optimizer_slots(value: Any) -> bool:
    """Return whether a value is an optimizer's state of one parameter."""
    kinds = (Tensor, int, float, bool, type(None))
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, kinds) for k, v in value.items())


FIELDS: dict[str, Callable[[Any], bool]] = {
    "epoch": is_count,
    "step": is_count,
    "seconds": is_seconds,
    "stage": lambda value: isinstance(value, str),
    "optimizers": lambda value: isinstance(value, dict) and all(map(is_optimizer, value.values())),
    "rng": lambda value: isinstance(value, Tensor) and value.dtype is torch.uint8 and value.dim() == 1,
    "meter": is_meter,
    "norms": is_meter,
    "best_epoch": is_count,
    "best_value": is_real,
    "metrics": is_metrics,
    "epochs": lambda value: is_count(value) and value > 0,
}
"""Check of each field of `last.pt`."""
