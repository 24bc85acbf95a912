"""Precision of the matrix products of a step, and when bf16 is faster than fp32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args

import torch

Precision = Literal["fp32", "bf16", "tf32", "auto"]
PRECISIONS = get_args(Precision)

MIN_WEIGHTS = 8e6
"""Least number of weights in dense layers for which `auto` chooses bf16.

Measured twice on two cores with AMX, for autoencoders 784-w-w-32-w-w-784, 128 images and steps with Adam: bf16 is
faster by 1.3 to 1.6× at 1.4e6 weights (w = 512), 1.4 to 1.5× at 3.8e6 (1024), 1.6× at 1.2e7 (2048) and 1.7 to 1.8× at
4.6e7 (4096)."""

MIN_IMAGES = 100
"""Least number of images in a batch for which `auto` chooses bf16; with fewer, a step mostly reads and updates weights.

Measured as above at w = 2048: bf16 is faster by 1.0× with 32 images, 1.35× with 64 and 1.5× with 96."""

MATMUL_PRECISIONS = {"bf16": "medium", "tf32": "high"}
"""Value of `torch.set_float32_matmul_precision` that rounds the factors of fp32 products; sums stay in fp32."""

AMX, AVX512 = "_is_amx_tile_supported", "_is_avx512_bf16_supported"
"""Functions of torch.cpu that detect AMX and AVX512-BF16. They are private, and a later torch may lack them."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError if the precision is unknown or the device lacks it."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, not '{precision}'")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision tf32 needs CUDA, and the device is {device.type}; choose fp32, bf16 or auto")


def uses_rounded_matmul(precision: str, device: torch.device) -> bool:
    """Return whether the precision is implemented by rounding the factors of matrix products.

    On a CPU with bf16 products, this is faster than torch.autocast at usual batch sizes, since no copies of the weights
    are made, and all other operations stay in fp32. Other devices use autocast for bf16.
    """
    if precision == "bf16":
        return device.type == "cpu" and cpu_supports(AMX, AVX512) and rounds_matmuls()
    return precision == "tf32"


def is_bf16_faster(images: int, weights: int, device: torch.device) -> bool:
    """Return whether bf16 was measured to be faster for a batch of `images` and `weights` in dense layers.

    This holds only with AMX. When oneDNN is limited to AVX512-BF16 on the same cores, bf16 takes 0.97 to 1.09 times as
    long as fp32. GPUs have not been measured.
    """
    return images >= MIN_IMAGES and weights >= MIN_WEIGHTS and device.type == "cpu" and cpu_supports(AMX)


def cpu_supports(*names: str) -> bool:
    """Return whether torch can use one of these CPU features, each the name of a function of torch.cpu."""
    checks = [getattr(torch.cpu, name, None) for name in names]
    return torch.backends.mkldnn.is_available() and any(check is not None and check() for check in checks)


@cache
def rounds_matmuls() -> bool:
    """Return whether torch's bf16 setting of matrix products has an effect on this CPU.

    Not every CPU with bf16 uses it: on an AMD EPYC with AVX512-BF16, torch 2.13 still computes in fp32.
    """
    # Rounded to bf16, this number is 1.
    factors = torch.full((64, 64), 1 + 2**-12)
    with round_matmul_factors("bf16"):
        return bool((factors @ factors == 64).all())


@contextlib.contextmanager
def round_matmul_factors(precision: str) -> Iterator[None]:
    """Context in which the whole process rounds the factors of fp32 matrix products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MATMUL_PRECISIONS[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
