"""All pictures of a trained model that its abilities allow, as PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from aectl.data.datasets import Source
from aectl.figures import codes, examples, image_grids, planar_report
from aectl.figures.curves import learning_curves
from aectl.figures.style import save
from aectl.models.base import Encodes, HasPosterior, Model, Reconstructs, Samples
from aectl.rng import Rng
from aectl.sampling import Request, draws, paths

IMAGES = 2000
"""At most so many images are encoded, which keeps this to a few seconds."""
EXAMPLES, SAMPLES_SIDE, SIDE = 10, 10, 15
POINTS = 1000
"""Samples of planar data: points take less room than images."""


def draw(model: Model, source: Source, folder: Path, seed: int = 0, *, metrics_csv: Path | None = None) -> list[Path]:
    """Draw what `model` can do with the images of `source` into `folder`/*.png; returns the paths.

    With a run's metrics.csv its learning curves are drawn as well. The same model, images and seed give the same
    pictures. Leaves the model as it was. Raises OSError if the folder cannot be written.
    """
    with examples.at_rest(model):
        paths = [save(figure, folder / f"{name}.png") for name, figure in figures(model, source, seed)]
    if metrics_csv is not None:
        paths.append(save(learning_curves(metrics_csv), folder / "learning_curves.png"))
    return paths


def figures(model: Model, source: Source, seed: int) -> Iterator[tuple[str, Figure]]:
    """Yield the figures by name, one at a time: of planar data as points, of others as images."""
    rng = Rng(seed, source.images.device)
    if examples.is_planar(source.shape):
        yield from planar_report.figures(model, source, Request(POINTS, rng, 1.0, source))
    else:
        yield from image_figures(model, source, Request(SAMPLES_SIDE**2, rng, 1.0, source))
    if isinstance(model, Encodes):
        yield from code_figures(model, source)


def image_figures(model: Model, source: Source, request: Request) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that are made of images by name."""
    if isinstance(model, Reconstructs):
        x = examples.examples(source, EXAMPLES)
        noisy = examples.corrupted(model, x, request.rng.seed)
        xhat = model.reconstruct(x if noisy is None else noisy)
        yield "reconstructions", image_grids.reconstructions(x, noisy, xhat, "Reconstructions")
    if isinstance(model, Samples):
        drawn = draws.prior(model, request)["images"]
        yield "samples", image_grids.image_grid(drawn, SAMPLES_SIDE, f"{len(drawn)} samples of the model")
    if paths.has_paths(model) and paths.has_ends(model, request):
        ends = paths.describe_ends(model, request)
        ways = paths.interpolation(model, request)["images"]
        yield "interpolations", image_grids.interpolations(ways, f"Interpolations between {ends}")
    if (figure := image_grids.filters(model, source.shape)) is not None:
        yield "filters", figure
    if paths.has_plane(model):
        decoded = paths.manifold(model, request, SIDE)
        yield "latent_grid", image_grids.manifold_grid(**decoded, title="Images over the plane of codes")


def code_figures(model: Encodes, source: Source) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of a model's codes by name."""
    encoded = examples.encode_first(model, source, IMAGES)
    labels = source.first(IMAGES).y
    yield "code_histogram", codes.code_histogram(encoded)
    if isinstance(model, HasPosterior):
        yield "unit_activity", codes.latent_activity(examples.posterior_means(model, source, IMAGES))
    else:
        yield "unit_activity", codes.unit_activity(encoded)
    if encoded.shape[1] > 1:
        yield "code_scatter", codes.code_scatter(encoded, labels, f"Codes of {len(encoded):,} images by class")
