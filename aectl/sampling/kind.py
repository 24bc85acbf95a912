"""Declare a kind of images that `aectl sample` makes: which models can make it, how, and how it is shown.

Each module of this package that makes images ends with `KINDS`, a tuple of its kinds, which `registry` finds. A new
kind needs no other edit.
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
    """A kind of images that `aectl sample` can make."""

    name: str
    meaning: str
    """One line for `aectl sample --help`."""
    can: Callable[[type | Model], bool]
    """Returns whether a model can make it; true for a class whose ability depends on the run."""
    make: Callable[[Model, Request], Arrays]
    """Returns the arrays to store in <kind>.npz; raises Impossible, with the reason, if the data do not suffice."""
    lacks: str
    """What a model that cannot make it lacks, e.g. `it has no prior`."""
    order: int
    """Position among the other kinds; numbers need not be consecutive."""
    verb: str = ""
    """What a model that cannot make it is unable to do, e.g. `sample`."""
    title: Callable[[Model, Request], str] | None = None
    """Returns the title of the figure; None uses the meaning."""
    layout: Layout | None = None
    """Layout of the figure; None shows `images` as a grid [n, C, H, W] or as rows [rows, n, C, H, W]."""
    uses: Callable[[Model], tuple[str, ...]] = lambda model: ()
    """Returns the fields of a request, besides n and the seed, that change the images of a model."""
    needs: Callable[[Model], tuple[str, ...]] = lambda model: ()
    """Returns the splits of the run's dataset that are needed."""

    def title_for(self, model: Model, request: Request) -> str:
        """Return the title of the figure."""
        return self.title(model, request) if self.title else self.meaning[:1].upper() + self.meaning[1:]
