"""aectl: train, evaluate and sample autoencoders and small generative networks from the command line.

From Python, `aectl.load("latest")` returns a trained model, `aectl.dataset("latest")` what it was trained on, and
`aectl.Rng(seed)` the numbers that sampling draws.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Rng", "dataset", "load"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, so that `aectl --help` stays quick."""
    if name in ("dataset", "load"):
        from aectl.runs import loading

        return getattr(loading, name)
    if name == "Rng":
        from aectl.rng import Rng

        return Rng
    raise AttributeError(f"module 'aectl' has no attribute '{name}'")
