"""The kinds of pictures, and which abilities each of them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aectl.models.base import Decodes, Encodes, Model, Reconstructs, Samples, Walks
from aectl.sampling.draws import density, density_title, prior
from aectl.sampling.history import training
from aectl.sampling.paths import (
    describe_ends,
    has_paths,
    has_plane,
    interpolation,
    is_spherical,
    manifold,
    starts_from_samples,
    traversal,
)
from aectl.sampling.reconstruction import chain, chain_title, has_chain, reconstruction
from aectl.sampling.request import Arrays, Request, has


@dataclass(frozen=True)
class Kind:
    """A kind of picture: whether a model can make it, how, and what a model that cannot is lacking.

    `title` says what is seen. `heeds` are the fields of a request, beside n and the seed, that change the pictures of
    this model. `needs` names the splits whose images they are made of.
    """

    verb: str
    lacks: str
    can: Callable[[type | Model], bool]
    make: Callable[[Model, Request], Arrays]
    title: Callable[[Model, Request], str]
    heeds: Callable[[Model], tuple[str, ...]] = lambda model: ()
    needs: Callable[[Model], tuple[str, ...]] = lambda model: ()


def prior_title(model: Model, request: Request) -> str:
    """Return what samples are, with their class and temperature if these are no matter of course."""
    kind = "" if request.label is None else f" of class {request.label}"
    at = "" if request.temperature == 1 else f" at temperature {request.temperature:g}"
    return f"Samples{kind} of the model{at}"


def interpolation_title(model: Model, request: Request) -> str:
    """Return between what interpolations go, and how."""
    how = "Spherical" if is_spherical(model, request) else "Linear"
    return f"{how} interpolations between {describe_ends(model, request, 'test images')}"


def traversal_title(model: Model, request: Request) -> str:
    """Return where the units stay that do not move."""
    of = "sample of the model" if starts_from_samples(model, request) else "test image"
    others = f"as for one {of}" if has(model, Encodes) else "at 0"
    return f"Traversals: one unit of the code changes, the others stay {others}"


def training_title(model: Model, request: Request) -> str:
    """Return what stays the same while the model changes."""
    what = "Samples of the same random numbers" if has(model, Samples) else "Reconstructions of the same images"
    return f"{what} over training"


def is_conditional(model: type | Model) -> bool:
    """Return whether a model heeds the class that it is asked to draw."""
    return has(model, Samples) and getattr(model, "conditional", False)


def can_sample_codes(model: type | Model) -> bool:
    """Return whether a model's codes can be fitted, and what is drawn in their stead be decoded."""
    return has(model, Encodes, Decodes)


def has_history(model: type | Model) -> bool:
    """Return whether training draws pictures of such a model."""
    return has(model, Samples) or has(model, Reconstructs)


def of_encoders(model: Model) -> tuple[str, ...]:
    """Return the split that a model's codes are those of, if it encodes images."""
    return ("test",) if has(model, Encodes) else ()


KINDS: dict[str, Kind] = {
    "prior": Kind(
        "sample",
        "it has no prior",
        lambda model: has(model, Samples),
        prior,
        prior_title,
        lambda model: ("temperature", "label"),
    ),
    "density": Kind(
        "have a density fitted to its codes",
        "it does not both encode and decode",
        can_sample_codes,
        density,
        lambda model, request: density_title(request),
        lambda model: ("temperature", "density", "components"),
        needs=lambda model: ("train",),
    ),
    "reconstruction": Kind(
        "reconstruct",
        "it has no encoder",
        lambda model: has(model, Reconstructs),
        reconstruction,
        lambda model, request: "Reconstructions of test images",
        needs=lambda model: ("test",),
    ),
    "interpolation": Kind(
        "interpolate",
        "it decodes no codes",
        has_paths,
        interpolation,
        interpolation_title,
        lambda model: ("path",) if has(model, Encodes) else ("path", "temperature"),
        needs=of_encoders,
    ),
    "traversal": Kind(
        "traverse its code", "it decodes no codes", has_paths, traversal, traversal_title, needs=of_encoders
    ),
    "manifold": Kind(
        "draw its manifold",
        "its code is not two-dimensional (model.code=2)",
        has_plane,
        manifold,
        lambda model, request: "The plane of codes",
        needs=lambda model: () if has(model, Samples) else ("test",),
    ),
    "chain": Kind(
        "walk a Markov chain",
        "it has none of its own, and it does not reconstruct or was trained without noise (noise=gaussian)",
        has_chain,
        chain,
        lambda model, request: chain_title(model),
        lambda model: ("steps", "burn_in", "thinning"),
        needs=lambda model: () if has(model, Walks) else ("test",),
    ),
    "training": Kind(
        "show its training",
        "it neither samples nor reconstructs",
        has_history,
        training,
        training_title,
    ),
}
