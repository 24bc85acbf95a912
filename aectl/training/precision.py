"""In which precision a step multiplies its matrices, and when less than fp32 pays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args

import torch

Precision = Literal["fp32", "bf16", "tf32", "auto"]
PRECISIONS = get_args(Precision)

WIDE = 8e6
"""Weights in the dense layers of a model from which on `auto` takes bf16.

Measured twice on two cores with AMX, 784-w-w-32 and back, 128 images, steps with Adam: at 1.4e6 (w = 512) bf16 is
faster by 1.3 to 1.6×, at 3.8e6 (1024) 1.4 to 1.5×, at 1.2e7 (2048) 1.6×, at 4.6e7 (4096) 1.7 to 1.8×."""

MANY = 100
"""Images in a batch from which on `auto` takes bf16: with fewer, a step mostly reads its weights and moves them.

Measured as above at w = 2048: with 32 images bf16 is faster by 1.0×, with 64 by 1.35×, with 96 by 1.5×."""

ROUNDED = {"bf16": "medium", "tf32": "high"}
"""What torch calls products of fp32 matrices whose factors are rounded so; sums and results stay in fp32."""

AMX, AVX512 = "_is_amx_tile_supported", "_is_avx512_bf16_supported"
"""Functions of torch.cpu that tell whether there is AMX, or AVX512-BF16. They are torch's own and may go."""


def check(precision: str, device: torch.device) -> None:
    """Raise ValueError for an unknown precision, or one that the device has not."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not '{precision}'")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 is of CUDA alone, and this is {device.type}; choose fp32, bf16 or auto")


def rounds(precision: str, device: torch.device) -> bool:
    """Return whether the precision is had by rounding the factors of products alone.

    On a CPU that multiplies bf16 itself this beats torch.autocast at the usual batches, since no copies of weights are
    made, and everything that is no product of matrices stays in fp32. Elsewhere bf16 is left to autocast.
    """
    if precision == "bf16":
        return device.type == "cpu" and has(AMX, AVX512) and is_rounding()
    return precision == "tf32"


def pays(images: int, weights: int, device: torch.device) -> bool:
    """Return whether bf16 was measured to pay for batches of so many images and so many weights in dense layers.

    That is so with AMX alone. With AVX512-BF16, to which oneDNN can be held on the same cores, bf16 took 0.97 to 1.09
    times as long as fp32. On GPUs nothing was measured.
    """
    return images >= MANY and weights >= WIDE and device.type == "cpu" and has(AMX)


def has(*names: str) -> bool:
    """Return whether this CPU has one of these ways to multiply bf16, and torch takes it; not where it cannot tell."""
    tells = [getattr(torch.cpu, name, None) for name in names]
    return torch.backends.mkldnn.is_available() and any(tell is not None and tell() for tell in tells)


@cache
def is_rounding() -> bool:
    """Return whether this CPU rounds the factors of products when torch asks for it.

    Not all that multiply bf16 do: on an AMD EPYC with AVX512-BF16, torch 2.13 computes in fp32 all the same.
    """
    # In bf16 this number is 1.
    factors = torch.full((64, 64), 1 + 2**-12)
    with rounded("bf16"):
        return bool((factors @ factors == 64).all())


@contextlib.contextmanager
def rounded(precision: str) -> Iterator[None]:
    """Round the factors of products of fp32 matrices within, in the whole process; afterwards it is as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(ROUNDED[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
