"""Sample new images from a model's prior, or from a density fitted to the codes of training images."""

from __future__ import annotations

from typing import cast

from aectl.data.datasets import Source
from aectl.data.encoding import encode_source
from aectl.densities import DENSITIES, MAX_CODES, count_components, decode_codes
from aectl.models.base import Decodes, Encodes, Model, Samples
from aectl.sampling.kind import Kind
from aectl.sampling.request import Arrays, Impossible, Request, has

CHUNK = 1000


def sample_prior(model: Model, request: Request) -> Arrays:
    """Sample `images` [n, C, H, W] from the model, of the requested class if any."""
    rng = request.rng.fork("prior")
    y = {} if request.label is None else {"y": request.labels()}
    return {"images": cast("Samples", model).sample(request.n, rng=rng, temperature=request.temperature, **y)}


def prior_title(model: Model, request: Request) -> str:
    """Return the title of samples, with class and temperature if requested."""
    kind = "" if request.label is None else f" of class {request.label}"
    at = "" if request.temperature == 1 else f" at temperature {request.temperature:g}"
    return f"Samples{kind} of the model{at}"


def is_conditional(model: type | Model) -> bool:
    """Return whether a model can sample images of a given class."""
    return has(model, Samples) and getattr(model, "conditional", False)


def sample_density(model: Model, request: Request) -> Arrays:
    """Sample `codes` [n, code] from a density of the codes of training images, and decode `images` [n, C, H, W].

    Raises Impossible if there are fewer training images than components, or if codes are NaN or infinite.
    """
    train = request.train
    if train is None:
        raise Impossible(request.why_none)
    try:
        density = request.densities.fit_or_load(
            request.density,
            request.components,
            len(train),
            lambda chosen: encode_source(cast("Encodes", model), train, CHUNK, chosen),
        )
    except ValueError as reason:
        raise Impossible(str(reason)) from None
    codes = density.to(request.rng.device).sample(request.n, request.rng.fork("density"), request.temperature)
    return {"images": decode_codes(cast("Decodes", model), codes, request.rng.fork("classes")), "codes": codes}


def density_title(model: Model, request: Request) -> str:
    """Return the title of images sampled from a density, which says that they are not samples of the model."""
    images = len(cast("Source", request.train))
    what = DENSITIES[request.density].describe(count_components(request.density, request.components, images))
    return f"Drawn from {what} fitted to the codes of {min(images, MAX_CODES):,} training images, not from a prior"


KINDS = (
    Kind(
        "prior",
        "samples of the model",
        can=lambda model: has(model, Samples),
        make=sample_prior,
        verb="sample",
        lacks="it has no prior",
        title=prior_title,
        layout="grid",
        uses=lambda model: ("temperature", "label"),
        order=10,
    ),
    Kind(
        "density",
        "drawn from a density fitted to codes",
        can=lambda model: has(model, Encodes, Decodes),
        make=sample_density,
        verb="have a density fitted to its codes",
        lacks="it does not both encode and decode",
        title=density_title,
        layout="grid",
        uses=lambda model: ("temperature", "density", "components"),
        needs=lambda model: ("train",),
        order=20,
    ),
)
