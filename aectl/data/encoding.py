"""Apply a model's methods to many images, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.models.base import AbilityError, Encodes


@torch.no_grad()
def encode_source(model: Encodes, source: Source, size: int, positions: Tensor | None = None) -> Tensor:
    """Return the codes [N, code] of all images, or of those at `positions` [N], encoded `size` at a time.

    Raises AbilityError if `encode` does not return a code for each image.
    """
    return apply_to_source(lambda x: check_count(model.encode(x), len(x), "encode"), source, size, positions)


@torch.no_grad()
def apply_to_source(
    function: Callable[[Tensor], Tensor], source: Source, size: int, positions: Tensor | None = None
) -> Tensor:
    """Apply `function` to images [n, C, H, W], all or those at `positions` [N], and return the results [N, values]."""
    positions = source.positions() if positions is None else positions
    return torch.cat([function(source.batch(part).x).flatten(1).float() for part in positions.split(size)])


def check_count(found: Any, n: int, name: str) -> Tensor:
    """Return `found`, the result of method `name`; raises AbilityError unless it is a tensor of n rows.

    `check_abilities` tries only a few images, but a method may return too few rows for many images.
    """
    if not isinstance(found, Tensor) or found.shape[:1] != (n,):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise AbilityError(f"model: {name} returned {what} for {n:,} images, not [{n}, …]")
    return found
