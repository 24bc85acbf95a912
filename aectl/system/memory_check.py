"""Refuse tensors and models that do not fit in memory before they are allocated.

If memory runs out, the system kills this process or another one without a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aectl.system.machine import NotEnoughMemory, memory_bytes

COPIES = 4
"""Copies per weight in training: weight, gradient and Adam's two moments. Also a rough number of values per pixel in
sampling: the pixel and the units of the layers before it."""
CREATING: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("empty", "zeros", "ones", "rand", "randn"), lambda *shape, size=(), **_: product(shape or size)),
    "full": lambda size, *_, **__: product(size),
    "randperm": lambda n, **_: n,
    "arange": lambda start, end=None, step=1, **_: (start if end is None else end - start) / step,
    "linspace": lambda start, end, steps, **_: steps,
    "eye": lambda n, m=None, **_: n * (n if m is None else m),
}
"""Number of elements that a function creates."""
EXPANDING: dict[str, Callable[..., float]] = {
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones"), lambda x, *size, **_: product(size)),
    "new_full": lambda x, size, *_, **__: product(size),
    **dict.fromkeys(("repeat", "tile"), lambda x, *times, **_: x.numel() * product(times)),
    "repeat_interleave": lambda x, times, *_, **__: x.numel() * (times if isinstance(times, int) else 1),
    "pad": lambda x, pads, *_, **__: padded_size(x.shape, pads),
    "conv2d": lambda x, w, b=None, stride=1, *_, **__: x[:, 0].numel() * len(w) / stride_area(stride),
    "conv_transpose2d": lambda x, w, b=None, stride=1, *_, **__: x[:, 0].numel() * w[0].shape[0] * stride_area(stride),
}
"""Least number of elements in the result of a function whose input may be much smaller."""
COPYING = ("int", "long", "float", "double", "clone", "contiguous")
"""Functions that copy an expanded tensor, whose rows share memory, at its full size."""
INTEGERS = ("arange", "randperm")
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


class MemoryLimit(TorchFunctionMode):
    """Context that raises NotEnoughMemory for a tensor, or the sum of all tensors, larger than memory.

    It intercepts each PyTorch call, in any code inside the block, and computes the size of large results before the
    call. `what` starts the message. `scale` multiplies sizes, for a trial run that is smaller than the real one. With
    `total=False` sizes are not added, for code that frees most of its tensors.
    """

    def __init__(self, what: str, device: torch.device | str = "cpu", scale: float = 1.0, total: bool = True) -> None:
        super().__init__()
        self.what, self.scale, self.total = what, scale, total
        self.limit, self.numbers, self.bytes = device_memory(torch.device(device)), 0, 0

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the call unless its result is too large."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in CREATING:
            usual = torch.int64 if name in INTEGERS else torch.get_default_dtype()
            self.count(count_numbers(CREATING[name], args, kwargs), (kwargs.get("dtype") or usual).itemsize)
            return func(*args, **kwargs)
        if name in EXPANDING:
            self.count(count_numbers(EXPANDING[name], args, kwargs), args[0].element_size())
            return func(*args, **kwargs)
        if name in COPYING and args and isinstance(args[0], Tensor) and 0 in args[0].stride():
            self.count(args[0].numel(), args[0].element_size())
        found = func(*args, **kwargs)
        # In-place methods (one trailing underscore), attributes and views allocate nothing.
        is_new = name != "__get__" and (not name.endswith("_") or name.endswith("__"))
        if is_new and isinstance(found, Tensor) and found._base is None:
            self.count(found.numel(), found.element_size())
        return found

    def count(self, numbers: int, itemsize: int) -> None:
        """Count a tensor; raises NotEnoughMemory if it does not fit."""
        size = numbers * itemsize
        if self.total:
            self.numbers, self.bytes = self.numbers + numbers, self.bytes + size
            numbers, size = self.numbers, self.bytes
        if size * self.scale > self.limit:
            raise self.make_error(f"at least {round(numbers * self.scale):,} numbers", size * self.scale)

    def make_error(self, what: str, size: float) -> NotEnoughMemory:
        """Return the error for a size that does not fit."""
        return NotEnoughMemory(
            f"{self.what}: {what} need {format_bytes(size)}, this machine has {format_bytes(self.limit)}"
        )


def check_training(model: nn.Module, device: torch.device | str) -> None:
    """Raise NotEnoughMemory if weights, gradients and optimizer state of a model exceed memory."""
    trained = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    every = sum(one.numel() * one.element_size() for one in (*model.parameters(), *model.buffers()))
    needed, limit = every + (COPIES - 1) * trained, device_memory(torch.device(device))
    if needed > limit:
        weights = sum(one.numel() for one in model.parameters())
        raise NotEnoughMemory(
            f"model: {weights:,} weights need {format_bytes(needed)} to train, this machine has {format_bytes(limit)}"
        )


def check_images(what: str, count: int, shape: Iterable[int], device: torch.device | str) -> None:
    """Raise NotEnoughMemory if `count` images and the activations that make them exceed memory."""
    pixels = 1
    for side in shape:
        pixels *= side
    needed, limit = COPIES * 4 * count * pixels, device_memory(torch.device(device))
    if needed > limit:
        raise NotEnoughMemory(
            f"{what}: {count:,} images of {pixels:,} pixels need {format_bytes(needed)}, "
            f"this machine has {format_bytes(limit)}"
        )


def device_memory(device: torch.device) -> float:
    """Return the total memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return memory_bytes()


def format_bytes(size: float) -> str:
    """Format a number of bytes, e.g. `12.5 TB`."""
    place = 0
    while size >= 999.5 and place < len(UNITS) - 1:
        size, place = size / 1000, place + 1
    return f"{size:,.3g} {UNITS[place]}" if size < 1000 else f"{size:,.0f} {UNITS[place]}"


def count_numbers(count: Callable[..., float], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the number of elements that a call creates; 0 if its arguments are unknown or wrong."""
    try:
        return math.ceil(count(*args, **kwargs))
    except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, RuntimeError):
        return 0


def product(sizes: Any) -> int:
    """Return the product of sizes, given as arguments or as a list."""
    return math.prod(product(one) if isinstance(one, (list, tuple)) else int(one) for one in sizes)


def stride_area(stride: int | tuple[int, ...]) -> int:
    """Return the product of a stride over rows and columns."""
    return stride**2 if isinstance(stride, int) else math.prod(stride)


def padded_size(shape: Iterable[int], pads: Sequence[int]) -> int:
    """Return the number of elements of a padded tensor; `pads` start with the last dimension."""
    around = [before + after for before, after in zip(pads[::2], pads[1::2], strict=True)]
    return math.prod(size + more for size, more in zip_longest(reversed(list(shape)), around, fillvalue=0))
