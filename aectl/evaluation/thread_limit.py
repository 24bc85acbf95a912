"""One thread for scikit-learn's small problems, in which several mostly wait for one another."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import threadpool_limits

SMALL = 5_000_000
"""Numbers in a matrix below which one thread is used."""


def threads_for(size: int) -> AbstractContextManager[Any]:
    """Return a context that allows one thread for a matrix of `size` numbers if it is small, else as many as before.

    Libraries that are loaded within the block are not limited: import scikit-learn before it.
    """
    return threadpool_limits(1) if size < SMALL else nullcontext()
