"""What codes look like: how many units are active, how many are dead."""

from __future__ import annotations

from torch import Tensor

ACTIVE = 1e-3
"""A unit is active on an image where |h| exceeds this."""


def sparsity(codes: Tensor) -> dict[str, float]:
    """Return, of codes [N, code]: the share and mean number of active units per image, and the units never active."""
    active = codes.abs() > ACTIVE
    return {
        "active_share": float(active.float().mean()),
        "active_units": float(active.float().sum(1).mean()),
        "dead_units": float((~active.any(0)).sum()),
        "units": float(codes.shape[1]),
    }
