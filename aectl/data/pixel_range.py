"""Tell when pixel values do not use the range of their type, as 12 bits in a 16-bit file do not."""

from __future__ import annotations

import math

DIM = 1 / 4
"""Share of the range below which the brightest pixel of a data set is worth a notice."""


def check_white(white: float | None) -> None:
    """Raise ValueError unless `scale`, the value of a white pixel, is a finite number above 0, or None."""
    if white is None:
        return
    if isinstance(white, bool) or not isinstance(white, (int, float)) or not 0 < white < math.inf:
        raise ValueError(f"scale must be the value of a white pixel, a number above 0 such as 255, not {white!r}")


def white_hint(greatest: float) -> str:
    """Return which `dataset.scale` to type for data whose greatest value this is."""
    return f"type dataset.scale={likely_white(greatest):.9g} if that is the value of a white pixel"


def likely_white(greatest: float) -> float:
    """Return the least 2ⁿ - 1 (n from 8) that is not below `greatest`, or `greatest` itself if that is below 64."""
    if greatest < 64 or not greatest < 2**63:
        return greatest
    return float(2 ** max(math.ceil(math.log2(greatest + 1)), 8) - 1)


def dim_notice(brightest: float, scale: float, name: str) -> str | None:
    """Return a notice if the brightest pixel of a data set is far below white (`brightest * scale` below 1/4)."""
    if not 0 < brightest * scale < DIM:
        return None
    white = f"{brightest:.5g} of {1 / scale:.5g}"
    return f"{name}: the brightest pixel is {white}, so that all images are dark; {white_hint(brightest)}"
