"""Decode codes that were drawn from a density."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from aectl.models.base import Decodes, DrawsClasses
from aectl.rng import Rng


def decode_codes(model: Decodes, z: Tensor, rng: Rng) -> Tensor:
    """Return the images [N, C, H, W] of codes z [N, code]; those of a conditional model get classes by frequency."""
    y = model.draw_classes(len(z), None, rng) if isinstance(model, DrawsClasses) else None
    return model.decode(z) if y is None else cast("Any", model).decode(z, y)
