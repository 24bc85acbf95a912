"""Figures of models of planar data (images of two values): displacement field, energies, samples and codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure
from torch import Tensor

from aectl.data.datasets import Source
from aectl.figures import examples, planar_fields
from aectl.models.base import Energy, Model, Reconstructs, Samples
from aectl.sampling import Request, draws, paths
from aectl.sampling.kind import Layout

SIDE = 15
"""Lines of the mesh of a plane of codes, in each direction."""


def figures(model: Model, source: Source, request: Request) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that the model's abilities allow, by name."""
    if isinstance(model, Reconstructs):
        yield "field", planar_fields.vector_field(model, source, "What the model adds to each point: g(f(x)) - x")
        batch = source.first(planar_fields.MAX_POINTS)
        noisy = examples.corrupt_images(model, batch.x, request.rng.seed)
        panels = {"input": batch.x, **({} if noisy is None else {"noisy": noisy})}
        panels["reconstruction"] = model.reconstruct(panels.get("noisy", batch.x))
        yield "reconstructions", planar_fields.points(panels, "Reconstructions", batch.y)
    if isinstance(model, Energy):
        yield "energy", planar_fields.landscape(model, source, "The energies that the model gives to points")
    if isinstance(model, Samples):
        drawn = draws.sample_prior(model, request)["images"]
        panels = {"data": source.pixels(), "samples": drawn}
        yield "samples", planar_fields.points(panels, f"{len(drawn):,} samples of the model")
    if paths.has_paths(model) and paths.has_ends(model, request):
        ends = paths.describe_ends(model, request, "points")
        ways = paths.interpolate_codes(model, request)["images"]
        yield "interpolations", planar_fields.paths(ways, source, f"Interpolations between {ends}")
    if paths.has_plane(model):
        net = paths.decode_plane(model, request, SIDE)["images"]
        yield "latent_grid", planar_fields.mesh(net, source, "The plane of codes among the points")


def draw_reconstructions(arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Show the points `x`, `noisy` if present, and `x_hat`, each [n, C, H, W], side by side."""
    names = {"x": "input", "noisy": "noisy", "x_hat": "reconstruction"}
    return planar_fields.points({name: arrays[key] for key, name in names.items() if key in arrays}, title)


def draw_points(arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Show the points `images` [n, C, H, W] next to those of the data."""
    return planar_fields.points({"data": source.pixels(), "drawn": arrays["images"]}, title)


def draw_paths(arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Show `images` [rows, steps, C, H, W] as lines over the points of the data."""
    return planar_fields.paths(arrays["images"], source, title)


LAYOUTS: dict[Layout, Callable[[dict[str, Tensor], Source, str], Figure]] = {
    "grid": draw_points,
    "rows": draw_paths,
    "reconstructions": draw_reconstructions,
    "interpolations": draw_paths,
    "traversals": draw_paths,
    "manifold": lambda arrays, source, title: planar_fields.mesh(arrays["images"], source, title),
    "chains": draw_paths,
}
"""Functions that draw points, by the layout of a kind. A strip always shows images."""
