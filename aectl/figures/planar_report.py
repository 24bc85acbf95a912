"""Figures of a model of points in the plane, images of two values: its field, energies, samples and codes."""

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
"""Lines of the net that a plane of codes becomes, each way."""


def figures(model: Model, source: Source, request: Request) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that the model's abilities allow by name, one at a time."""
    if isinstance(model, Reconstructs):
        yield "field", planar_fields.vector_field(model, source, "What the model adds to each point: g(f(x)) - x")
        batch = source.first(planar_fields.SHOWN)
        noisy = examples.corrupted(model, batch.x, request.rng.seed)
        panels = {"input": batch.x, **({} if noisy is None else {"noisy": noisy})}
        panels["reconstruction"] = model.reconstruct(panels.get("noisy", batch.x))
        yield "reconstructions", planar_fields.points(panels, "Reconstructions", batch.y)
    if isinstance(model, Energy):
        yield "energy", planar_fields.landscape(model, source, "The energies that the model gives to points")
    if isinstance(model, Samples):
        drawn = draws.prior(model, request)["images"]
        panels = {"data": source.pixels(), "samples": drawn}
        yield "samples", planar_fields.points(panels, f"{len(drawn):,} samples of the model")
    if paths.has_paths(model) and paths.has_ends(model, request):
        ends = paths.describe_ends(model, request, "points")
        ways = paths.interpolation(model, request)["images"]
        yield "interpolations", planar_fields.paths(ways, source, f"Interpolations between {ends}")
    if paths.has_plane(model):
        net = paths.manifold(model, request, SIDE)["images"]
        yield "latent_grid", planar_fields.mesh(net, source, "The plane of codes among the points")


def moved(arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Show points `x`, `noisy` if there is such, and `x_hat`, each [n, C, H, W], side by side."""
    names = {"x": "input", "noisy": "noisy", "x_hat": "reconstruction"}
    return planar_fields.points({name: arrays[key] for key, name in names.items() if key in arrays}, title)


def drawn(arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Show the points `images` [n, C, H, W] beside those of the data."""
    return planar_fields.points({"data": source.pixels(), "drawn": arrays["images"]}, title)


def ways(arrays: dict[str, Tensor], source: Source, title: str) -> Figure:
    """Show `images` [rows, steps, C, H, W] as lines among the points of the data."""
    return planar_fields.paths(arrays["images"], source, title)


LAYOUTS: dict[Layout, Callable[[dict[str, Tensor], Source, str], Figure]] = {
    "grid": drawn,
    "rows": ways,
    "reconstructions": moved,
    "interpolations": ways,
    "traversals": ways,
    "manifold": lambda arrays, source, title: planar_fields.mesh(arrays["images"], source, title),
    "chains": ways,
}
"""The figure of points by the layout that a kind names; a strip of epochs shows images."""
