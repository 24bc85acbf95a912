"""Detect pixel values that use only a small part of the range of their type, e.g. 12 bits in a 16-bit file."""

from __future__ import annotations

import math

DIM_SHARE = 1 / 4
"""A notice is logged if the maximum pixel of a dataset is below this share of the range."""


def check_white(white: float | None) -> None:
    """Raise ValueError unless `scale`, the value of a white pixel, is a finite number above 0, or None."""
    if white is None:
        return
    if isinstance(white, bool) or not isinstance(white, (int, float)) or not 0 < white < math.inf:
        raise ValueError(f"scale must be the value of a white pixel, a number above 0 such as 255, not {white!r}")


def suggest_white(greatest: float) -> str:
    """Return a hint which `dataset.scale` to set for data with this maximum value."""
    return f"set dataset.scale={guess_white(greatest):.9g} if that is the value of a white pixel"


def guess_white(greatest: float) -> float:
    """Return the smallest 2ⁿ - 1 ≥ `greatest` with n ≥ 8, or `greatest` itself if it is below 64."""
    if greatest < 64 or not greatest < 2**63:
        return greatest
    return float(2 ** max(math.ceil(math.log2(greatest + 1)), 8) - 1)


def describe_dim_pixels(brightest: float, scale: float, name: str) -> str | None:
    """Return a notice if the maximum pixel of a dataset is far below white (`brightest * scale` < 1/4), else None."""
    if not 0 < brightest * scale < DIM_SHARE:
        return None
    white = f"{brightest:.5g} of {1 / scale:.5g}"
    return f"{name}: the brightest pixel is {white}, so all images are dark; {suggest_white(brightest)}"
