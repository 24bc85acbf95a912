"""Draw all figures that the abilities of a trained model allow, as PNG files."""

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
"""Largest number of images that are encoded, so that this takes a few seconds."""
EXAMPLES, SAMPLES_SIDE, SIDE = 10, 10, 15
POINTS = 1000
"""Number of samples of planar data."""


def draw(model: Model, source: Source, folder: Path, seed: int = 0, *, metrics_csv: Path | None = None) -> list[Path]:
    """Draw the figures of `model` on the images of `source` to `folder`/*.png; return their paths.

    With `metrics_csv`, also draw the learning curves. The figures depend only on model, images and seed. Does not
    change the model. Raises OSError if the folder is not writable.
    """
    with examples.evaluation_mode(model):
        paths = [save(figure, folder / f"{name}.png") for name, figure in figures(model, source, seed)]
    if metrics_csv is not None:
        paths.append(save(learning_curves(metrics_csv), folder / "learning_curves.png"))
    return paths


def figures(model: Model, source: Source, seed: int) -> Iterator[tuple[str, Figure]]:
    """Yield the figures by name: planar data as points, other data as images."""
    rng = Rng(seed, source.images.device)
    if examples.is_planar(source.shape):
        yield from planar_report.figures(model, source, Request(POINTS, rng, 1.0, source))
    else:
        yield from image_figures(model, source, Request(SAMPLES_SIDE**2, rng, 1.0, source))
    if isinstance(model, Encodes):
        yield from code_figures(model, source)


def image_figures(model: Model, source: Source, request: Request) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that consist of images, by name."""
    if isinstance(model, Reconstructs):
        x = examples.examples(source, EXAMPLES)
        noisy = examples.corrupt_images(model, x, request.rng.seed)
        xhat = model.reconstruct(x if noisy is None else noisy)
        yield "reconstructions", image_grids.reconstructions(x, noisy, xhat, "Reconstructions")
    if isinstance(model, Samples):
        drawn = draws.sample_prior(model, request)["images"]
        yield "samples", image_grids.image_grid(drawn, SAMPLES_SIDE, f"{len(drawn)} samples of the model")
    if paths.has_paths(model) and paths.has_ends(model, request):
        ends = paths.describe_ends(model, request)
        ways = paths.interpolate_codes(model, request)["images"]
        yield "interpolations", image_grids.interpolations(ways, f"Interpolations between {ends}")
    if (figure := image_grids.filters(model, source.shape)) is not None:
        yield "filters", figure
    if paths.has_plane(model):
        decoded = paths.decode_plane(model, request, SIDE)
        yield "latent_grid", image_grids.manifold_grid(**decoded, title="Images over the plane of codes")


def code_figures(model: Encodes, source: Source) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of codes, by name."""
    encoded = examples.encode_first(model, source, IMAGES)
    labels = source.first(IMAGES).y
    yield "code_histogram", codes.code_histogram(encoded)
    if isinstance(model, HasPosterior):
        yield "unit_activity", codes.latent_activity(examples.posterior_means(model, source, IMAGES))
    else:
        yield "unit_activity", codes.unit_activity(encoded)
    if encoded.shape[1] > 1:
        yield "code_scatter", codes.code_scatter(encoded, labels, f"Codes of {len(encoded):,} images by class")
