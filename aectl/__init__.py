"""aectl: train, evaluate and sample autoencoders and small generative networks from the command line.

From Python, `aectl.load("latest")` returns a trained model, `aectl.dataset("latest")` returns its dataset, and
`aectl.Rng(seed)` is the random number generator for sampling.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Rng", "dataset", "load"]


def __getattr__(name: str) -> Any:
    """Import modules that need torch on first use, so that `aectl --help` starts quickly."""
    if name in ("dataset", "load"):
        from aectl.runs import loading

        return getattr(loading, name)
    if name == "Rng":
        from aectl.rng import Rng

        return Rng
    raise AttributeError(f"module 'aectl' has no attribute '{name}'")
