"""Ways through the codes: from one to another, along one unit at a time, and over a plane of two."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aectl.models.base import Decodes, Encodes, Model, Samples
from aectl.sampling.kind import Kind
from aectl.sampling.request import STEPS, Arrays, Impossible, Request, has

CENTRAL = (0.025, 0.975)
"""The quantiles between which codes are shown."""
REFERENCE = 500
"""Images whose codes tell where codes lie."""
UNITS = 10
"""Rows of traversals."""
REACH = 2.0
"""How far traversals go from 0, in standard deviations of a normal prior: over its central 95 %."""


def interpolation(model: Model, request: Request) -> Arrays:
    """Walk from code to code: `images` [rows, STEPS, C, H, W] and their `codes` [rows, STEPS, code].

    For a model that encodes, between the codes of two images, and if the request leaves it open in straight lines.
    Otherwise between two draws from the normal prior, on great circles: the middle of a straight line would be too
    short a code for it. Raises Impossible if there are no two images, and the model draws none.
    """
    if isinstance(model, Encodes):
        ends = model.encode(starting_images(model, request, 2 * request.rows, fewest=2))
        rows = len(ends) // 2
        start, end = ends[:rows, None], ends[rows : 2 * rows, None]
    else:
        start, end = request.temperature * request.rng.fork("prior").normal(2, request.rows, 1, model.code)
    share = torch.linspace(0, 1, STEPS, device=request.rng.device)[:, None]
    between = spherical if is_spherical(model, request) else linear
    return decoded(model, between(start, end, share))


def starting_images(model: Model, request: Request, count: int, fewest: int = 1) -> Tensor:
    """Return `count` images [count, C, H, W], or all that the request has; see `starts_from_samples`.

    Raises Impossible if it has fewer than the `fewest` and the model draws none.
    """
    if starts_from_samples(model, request, fewest):
        return cast("Samples", model).sample(count, rng=request.rng.fork("images"))
    found = request.images(count)
    if len(found) < fewest:
        raise Impossible("it takes two images, and there is only one")
    return found


def starts_from_samples(model: type | Model, request: Request, fewest: int = 1) -> bool:
    """Return whether a model's own samples are encoded instead of images, of which the request has too few."""
    return len(request.source) < fewest and has(model, Samples)


def has_ends(model: type | Model, request: Request) -> bool:
    """Return whether there is something that the model can interpolate between."""
    return not has(model, Encodes) or len(request.source) > 1 or has(model, Samples)


def describe_ends(model: type | Model, request: Request, images: str = "images") -> str:
    """Return what interpolations go between; `images` is what those of the request are called."""
    if not has(model, Encodes):
        return "two draws from the prior"
    return f"the codes of two {'samples of the model' if starts_from_samples(model, request, 2) else images}"


def is_spherical(model: type | Model, request: Request) -> bool:
    """Return whether interpolations go on great circles."""
    return request.path == "spherical" or (request.path == "auto" and not has(model, Encodes))


def linear(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return (1 - t) a + t b for shares t of the way, shapes broadcast."""
    return (1 - share) * start + share * end


def spherical(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return (sin((1 - t) ω) a + sin(t ω) b) / sin ω, ω the angle between a and b, for codes [..., code].

    Codes of one length keep it on all the way; a and b on one line are joined by it. Sources: Shoemake 1985, White
    2016, "Sampling generative networks".
    """
    a, b = F.normalize(start, dim=-1), F.normalize(end, dim=-1)
    # Exact for codes of nearly one direction, or of nearly opposite ones, where an arccosine is not (Kahan 2006).
    angle = 2 * torch.atan2((a - b).norm(dim=-1, keepdim=True), (a + b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    curved = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / sine
    has_angle = (sine > 1e-4) & a.any(-1, keepdim=True) & b.any(-1, keepdim=True)
    return torch.where(has_angle, curved, linear(start, end, share))


def traversal(model: Model, request: Request) -> Arrays:
    """Change one unit at a time: `images` [units, STEPS, C, H, W], `codes` [units, STEPS, code], `units` [units].

    The units whose values vary most come first, at most UNITS of them. Each goes in even steps over the central 95 %
    of its values for images, while the others stay as they are for one image. Without an encoder, each goes from
    -REACH to REACH standard deviations of the prior while the others stay at 0.
    """
    device = request.rng.device
    if isinstance(model, Encodes):
        codes = model.encode(starting_images(model, request, REFERENCE)).flatten(1)
        low, high = codes.quantile(torch.tensor(CENTRAL, device=device), dim=0)
        units = codes.var(0, correction=0).argsort(descending=True, stable=True)[:UNITS]
        fixed = codes[0]
    else:
        high = torch.full((model.code,), REACH, device=device)
        low, fixed, units = -high, torch.zeros_like(high), torch.arange(min(model.code, UNITS), device=device)
    share = torch.linspace(0, 1, STEPS, device=device)
    moved = fixed.expand(len(units), STEPS, -1).clone()
    rows = torch.arange(len(units), device=device)
    moved[rows, :, units] = linear(low[units, None], high[units, None], share)
    return {**decoded(model, moved), "units": units}


def manifold(model: Model, request: Request, side: int = 2 * STEPS) -> Arrays:
    """Decode a square grid of two-dimensional codes: `images` [side, side, C, H, W] and `codes` [side, side, 2].

    The first coordinate grows to the right, the second upwards: the first row has the largest. A model that samples
    has a standard normal prior, and the coordinates are its quantiles; otherwise they run evenly over the central
    95 % of the codes of images.
    """
    device = request.rng.device
    if has(model, Samples):
        across = up = torch.special.ndtri(torch.linspace(*CENTRAL, side)).to(device)
    else:
        low, high = (
            cast("Encodes", model)
            .encode(request.images(REFERENCE))
            .quantile(torch.tensor(CENTRAL, device=device), dim=0)
        )
        share = torch.linspace(0, 1, side, device=device)[:, None]
        across, up = linear(low, high, share).unbind(1)
    return decoded(model, torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), -1))


def decoded(model: Model, codes: Tensor) -> Arrays:
    """Return `codes` [rows, columns, code] with their `images` [rows, columns, C, H, W]."""
    return {"images": cast("Decodes", model).decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2]), "codes": codes}


def has_paths(model: type | Model) -> bool:
    """Return whether a model decodes codes, and images or a prior tell where they lie."""
    return has(model, Decodes) and (has(model, Samples) or has(model, Encodes))


def has_plane(model: type | Model) -> bool:
    """Return whether a model decodes two-dimensional codes; of a class that depends on the run, so that says yes."""
    return has_paths(model) and (isinstance(model, type) or getattr(model, "code", None) == 2)


def interpolation_title(model: Model, request: Request) -> str:
    """Return the title of interpolations: between what they go, and how."""
    how = "Spherical" if is_spherical(model, request) else "Linear"
    return f"{how} interpolations between {describe_ends(model, request, 'test images')}"


def traversal_title(model: Model, request: Request) -> str:
    """Return the title of traversals: where the units stay that do not move."""
    of = "sample of the model" if starts_from_samples(model, request) else "test image"
    others = f"as for one {of}" if has(model, Encodes) else "at 0"
    return f"Traversals: one unit of the code changes, the others stay {others}"


def encoded_splits(model: Model) -> tuple[str, ...]:
    """Return the split whose images a model encodes, if it encodes any."""
    return ("test",) if has(model, Encodes) else ()


KINDS = (
    Kind(
        "interpolation",
        "between two codes",
        can=has_paths,
        make=interpolation,
        verb="interpolate",
        lacks="it decodes no codes",
        title=interpolation_title,
        layout="interpolations",
        heeds=lambda model: ("path",) if has(model, Encodes) else ("path", "temperature"),
        needs=encoded_splits,
        order=40,
    ),
    Kind(
        "traversal",
        "one unit of the code changes",
        can=has_paths,
        make=traversal,
        verb="traverse its code",
        lacks="it decodes no codes",
        title=traversal_title,
        layout="traversals",
        needs=encoded_splits,
        order=50,
    ),
    Kind(
        "manifold",
        "the plane of two-dimensional codes",
        can=has_plane,
        make=manifold,
        verb="draw its manifold",
        lacks="its code is not two-dimensional (model.code=2)",
        title=lambda model, request: "The plane of codes",
        layout="manifold",
        needs=lambda model: () if has(model, Samples) else ("test",),
        order=60,
    ),
)
