"""Decode paths in code space: interpolations, traversals of single units, and the plane of two-dimensional codes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from aectl.models.base import Decodes, Encodes, Model, Samples
from aectl.sampling.kind import Kind
from aectl.sampling.request import STEPS, Arrays, Impossible, Request, has

QUANTILES = (0.025, 0.975)
"""Quantiles of codes between which images are shown."""
QUANTILE_IMAGES = 500
"""Images from whose codes the quantiles are computed."""
UNITS = 10
"""Number of units that are traversed, one per row."""
REACH = 2.0
"""Half-range of traversals in standard deviations of a normal prior, which covers its central 95 %."""


def interpolate_codes(model: Model, request: Request) -> Arrays:
    """Interpolate between pairs of codes: `images` [rows, STEPS, C, H, W] and their `codes` [rows, STEPS, code].

    A model that encodes interpolates between the codes of two images, by default linearly. Other models interpolate
    between two draws from the normal prior, by default spherically: the midpoint of a line would have an untypically
    small norm. Raises Impossible if there are fewer than two images and the model cannot sample any.
    """
    if isinstance(model, Encodes):
        ends = model.encode(starting_images(model, request, 2 * request.rows, fewest=2))
        rows = len(ends) // 2
        start, end = ends[:rows, None], ends[rows : 2 * rows, None]
    else:
        start, end = request.temperature * request.rng.fork("prior").normal(2, request.rows, 1, model.code)
    share = torch.linspace(0, 1, STEPS, device=request.rng.device)[:, None]
    between = interpolate_spherically if is_spherical(model, request) else interpolate_linearly
    return decode_codes(model, between(start, end, share))


def starting_images(model: Model, request: Request, count: int, fewest: int = 1) -> Tensor:
    """Return up to `count` images [count, C, H, W] of the request, or samples if it has too few images.

    Raises Impossible if the request has fewer than `fewest` images and the model cannot sample.
    """
    if starts_from_samples(model, request, fewest):
        return cast("Samples", model).sample(count, rng=request.rng.fork("images"))
    found = request.images(count)
    if len(found) < fewest:
        raise Impossible("two images are needed, but there is only one")
    return found


def starts_from_samples(model: type | Model, request: Request, fewest: int = 1) -> bool:
    """Return whether the model encodes its own samples because the request has too few images."""
    return len(request.source) < fewest and has(model, Samples)


def has_ends(model: type | Model, request: Request) -> bool:
    """Return whether there are two codes between which the model can interpolate."""
    return not has(model, Encodes) or len(request.source) > 1 or has(model, Samples)


def describe_ends(model: type | Model, request: Request, images: str = "images") -> str:
    """Describe the end points of interpolations; `images` is the name for images of the request."""
    if not has(model, Encodes):
        return "two draws from the prior"
    return f"the codes of two {'samples of the model' if starts_from_samples(model, request, 2) else images}"


def is_spherical(model: type | Model, request: Request) -> bool:
    """Return whether interpolations are spherical."""
    return request.path == "spherical" or (request.path == "auto" and not has(model, Encodes))


def interpolate_linearly(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return (1 - t) a + t b for t in `share`; shapes broadcast."""
    return (1 - share) * start + share * end


def interpolate_spherically(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Return (sin((1 - t) ω) a + sin(t ω) b) / sin ω, ω the angle between a and b, for codes [..., code].

    If a and b have the same norm, so do all codes between them. Collinear a and b are interpolated linearly. Sources:
    Shoemake 1985; White 2016, "Sampling generative networks".
    """
    a, b = F.normalize(start, dim=-1), F.normalize(end, dim=-1)
    # Unlike an arccosine, accurate for nearly parallel and nearly opposite codes (Kahan 2006).
    angle = 2 * torch.atan2((a - b).norm(dim=-1, keepdim=True), (a + b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    curved = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / sine
    has_angle = (sine > 1e-4) & a.any(-1, keepdim=True) & b.any(-1, keepdim=True)
    return torch.where(has_angle, curved, interpolate_linearly(start, end, share))


def traverse_units(model: Model, request: Request) -> Arrays:
    """Vary one unit at a time: `images` [units, STEPS, C, H, W], `codes` [units, STEPS, code], `units` [units].

    The units with the largest variance are used, at most UNITS. Each takes even steps over the central 95 % of its
    values for images, while the others keep their values for one image. Without an encoder, each takes even steps from
    -REACH to REACH standard deviations of the prior, while the others are 0.
    """
    device = request.rng.device
    if isinstance(model, Encodes):
        codes = model.encode(starting_images(model, request, QUANTILE_IMAGES)).flatten(1)
        low, high = codes.quantile(torch.tensor(QUANTILES, device=device), dim=0)
        units = codes.var(0, correction=0).argsort(descending=True, stable=True)[:UNITS]
        fixed = codes[0]
    else:
        high = torch.full((model.code,), REACH, device=device)
        low, fixed, units = -high, torch.zeros_like(high), torch.arange(min(model.code, UNITS), device=device)
    share = torch.linspace(0, 1, STEPS, device=device)
    moved = fixed.expand(len(units), STEPS, -1).clone()
    rows = torch.arange(len(units), device=device)
    moved[rows, :, units] = interpolate_linearly(low[units, None], high[units, None], share)
    return {**decode_codes(model, moved), "units": units}


def decode_plane(model: Model, request: Request, side: int = 2 * STEPS) -> Arrays:
    """Decode a square grid of two-dimensional codes: `images` [side, side, C, H, W] and `codes` [side, side, 2].

    The first coordinate increases to the right and the second upwards, so the first row has the largest second
    coordinate. For a model that samples, coordinates are quantiles of the standard normal prior; for others, they are
    evenly spaced over the central 95 % of the codes of images.
    """
    device = request.rng.device
    if has(model, Samples):
        across = up = torch.special.ndtri(torch.linspace(*QUANTILES, side)).to(device)
    else:
        low, high = (
            cast("Encodes", model)
            .encode(request.images(QUANTILE_IMAGES))
            .quantile(torch.tensor(QUANTILES, device=device), dim=0)
        )
        share = torch.linspace(0, 1, side, device=device)[:, None]
        across, up = interpolate_linearly(low, high, share).unbind(1)
    return decode_codes(model, torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), -1))


def decode_codes(model: Model, codes: Tensor) -> Arrays:
    """Return `codes` [rows, columns, code] and their decoded `images` [rows, columns, C, H, W]."""
    return {"images": cast("Decodes", model).decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2]), "codes": codes}


def has_paths(model: type | Model) -> bool:
    """Return whether a model decodes codes and their range is known, from an encoder or a prior."""
    return has(model, Decodes) and (has(model, Samples) or has(model, Encodes))


def has_plane(model: type | Model) -> bool:
    """Return whether a model decodes two-dimensional codes; true for a class, whose code size depends on the run."""
    return has_paths(model) and (isinstance(model, type) or getattr(model, "code", None) == 2)


def interpolation_title(model: Model, request: Request) -> str:
    """Return the title of interpolations, with their type and end points."""
    how = "Spherical" if is_spherical(model, request) else "Linear"
    return f"{how} interpolations between {describe_ends(model, request, 'test images')}"


def traversal_title(model: Model, request: Request) -> str:
    """Return the title of traversals, with the values of the units that stay fixed."""
    of = "sample of the model" if starts_from_samples(model, request) else "test image"
    others = f"as for one {of}" if has(model, Encodes) else "at 0"
    return f"Traversals: one unit of the code changes, the others stay {others}"


def encoded_splits(model: Model) -> tuple[str, ...]:
    """Return ("test",) if a model encodes images, else ()."""
    return ("test",) if has(model, Encodes) else ()


KINDS = (
    Kind(
        "interpolation",
        "between two codes",
        can=has_paths,
        make=interpolate_codes,
        verb="interpolate",
        lacks="it decodes no codes",
        title=interpolation_title,
        layout="interpolations",
        uses=lambda model: ("path",) if has(model, Encodes) else ("path", "temperature"),
        needs=encoded_splits,
        order=40,
    ),
    Kind(
        "traversal",
        "one unit of the code changes",
        can=has_paths,
        make=traverse_units,
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
        make=decode_plane,
        verb="draw its manifold",
        lacks="its code is not two-dimensional (model.code=2)",
        title=lambda model, request: "The plane of codes",
        layout="manifold",
        needs=lambda model: () if has(model, Samples) else ("test",),
        order=60,
    ),
)
