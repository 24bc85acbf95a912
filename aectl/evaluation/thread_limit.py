"""Limit scikit-learn to one thread for small problems, which are slower with several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import threadpool_limits

SMALL = 5_000_000
"""One thread is used for matrices with fewer numbers."""


def threads_for(size: int) -> AbstractContextManager[Any]:
    """Return a context with one thread if a matrix of `size` numbers is small, otherwise without a limit.

    Libraries that are loaded inside the block are not limited: import scikit-learn before.
    """
    return threadpool_limits(1) if size < SMALL else nullcontext()
