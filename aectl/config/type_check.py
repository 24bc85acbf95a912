"""Check YAML values against type hints, and describe type hints in plain words."""

from __future__ import annotations

import collections.abc
import inspect
import os
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, Union

LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
COLLECTIONS = (list, tuple, set, frozenset, dict, collections.abc.Sequence, collections.abc.Mapping)
SCALARS = (bool, int, float, str)
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def get_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the type hints of a function or constructor; empty if they cannot be evaluated."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a YAML value (scalar, list, mapping or None) fits a type hint.

    True in cases of doubt: other classes are checked by their constructors.
    """
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is float:
        # In Python, bool is a subclass of int, but `true` is not a number in YAML.
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if origin in TYPE_NAMES:
        return type(value) is origin
    if isinstance(value, dict) and "_target_" in value:
        # The constructor checks the object that it builds.
        return True
    if origin in LISTS:
        return isinstance(value, (list, tuple)) and items_fit(value, origin, arguments)
    if origin in MAPPINGS:
        return isinstance(value, dict)
    return not is_opaque(origin) or (isinstance(value, (list, tuple, dict)) and issubclass(origin, COLLECTIONS))


def items_fit(values: collections.abc.Sequence[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether each item of a list fits the item types of `origin[arguments]`."""
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(values) == len(arguments) and all(map(fits, values, arguments))
    return not arguments or all(fits(value, arguments[0]) for value in values)


def with_floats(values: Any, hint: Any) -> Any:
    """Return a list whose whole numbers are floats where `hint` is a tuple of floats; other values unchanged.

    YAML reads [0, 0.99] as an int and a float, and some functions, such as torch.optim.Adam for its betas, refuse both.
    """
    if typing.get_origin(hint) is not tuple or not isinstance(values, (list, tuple)) or not fits(values, hint):
        return values
    kinds = [typing.get_args(one) or (one,) for one in typing.get_args(hint)]
    if any(float not in kind or int in kind for kind in kinds if kind != (Ellipsis,)):
        return values
    return [float(value) for value in values]


def is_opaque(origin: Any) -> bool:
    """Return whether no number or text can be an instance of the class, e.g. for Module and Callable."""
    # Any is a class in newer Pythons.
    if not inspect.isclass(origin) or origin in (Any, object):
        return False
    return not any(issubclass(scalar, origin) for scalar in SCALARS) and not issubclass(origin, (os.PathLike, *SCALARS))


def describe_type(hint: Any) -> str:
    """Describe the values that fit a hint, e.g. 'a whole number or null'."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # Only scalars can be typed: `float | Tensor` is described as a number.
        typed = [one for one in arguments if not isinstance(one, type) or one in TYPE_NAMES or not is_opaque(one)]
        is_scalar = any(one in SCALARS for one in arguments)
        return " or ".join(describe_type(one) for one in (typed if is_scalar else arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in LISTS:
        items = [one for one in arguments if one is not Ellipsis]
        if len(items) > 1:
            return "a list of " + " and ".join(describe_type(one) for one in items)
        return f"a list, each {describe_type(items[0])}" if items else "a list"
    if origin in MAPPINGS:
        return "a mapping"
    if origin is collections.abc.Callable:
        return "something to build, with a _target_"
    return TYPE_NAMES.get(origin) or f"a {getattr(origin, '__name__', origin)}"
