"""Declare a kind of picture that `aectl sample` makes: which models can make it, how, and how it is shown.

Each module of this package that makes pictures ends with `KINDS`, a tuple of its kinds. `registry` finds them there: a
new kind needs no other edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aectl.models.base import Model
from aectl.sampling.request import Arrays, Request

Layout = Literal["grid", "rows", "reconstructions", "interpolations", "traversals", "manifold", "chains", "strip"]


@dataclass(frozen=True)
class Kind:
    """A kind of picture."""

    name: str
    meaning: str
    """One line for `aectl sample --help`."""
    can: Callable[[type | Model], bool]
    """Returns whether a model can make it; of a class whose ability depends on the run, true."""
    make: Callable[[Model, Request], Arrays]
    """Returns the pictures, as they are stored in <kind>.npz; raises Impossible, with the reason, without the data."""
    lacks: str
    """What a model that cannot make it lacks, e.g. `it has no prior`."""
    order: int
    """Where the kind comes among the others; numbers need not be consecutive."""
    verb: str = ""
    """What a model that lacks it cannot do, e.g. `sample`."""
    title: Callable[[Model, Request], str] | None = None
    """Returns the title of the figure; None uses the meaning."""
    layout: Layout | None = None
    """How the figure shows the arrays; None shows `images` as a grid [n, C, H, W] or as rows [rows, n, C, H, W]."""
    heeds: Callable[[Model], tuple[str, ...]] = lambda model: ()
    """Returns the fields of a request, in addition to n and the seed, that change the pictures of a model."""
    needs: Callable[[Model], tuple[str, ...]] = lambda model: ()
    """Returns the splits of the run's data set that the pictures are made of."""

    def title_for(self, model: Model, request: Request) -> str:
        """Return the title of the figure."""
        return self.title(model, request) if self.title else self.meaning[:1].upper() + self.meaning[1:]
