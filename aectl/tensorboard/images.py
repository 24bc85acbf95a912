"""Draw pictures of a model at each epoch of training, as tensors for TensorBoard."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aectl.data.datasets import Source
from aectl.data.thumbnails import shrink
from aectl.figures import examples
from aectl.models.base import Model, Reconstructs, Samples
from aectl.rng import Rng
from aectl.sampling import Request, paths

EXAMPLES, SAMPLES, COLUMNS, GRID_SIDE = 10, 64, 8, 12
DPI = 70
"""Dots per inch of pictures of planar data."""
MIN_TILE = 56
"""Width in pixels to which small images are enlarged, twice that of MNIST."""
MAX_TILE = 224
"""Longer side in pixels that an enlarged image may have."""


def draw_pictures(model: Model, source: Source, seed: int = 0) -> dict[str, Tensor]:
    """Return pictures [C, H, W] in [0, 1] by name, depending on the model's abilities.

    `reconstruction` has rows of input, noisy input (if the model has noise) and reconstruction. `samples` are samples.
    `filters` are the weights of a dense first layer, grey for 0. `latent_grid` decodes a grid of two-dimensional codes.
    For planar data, `field` shows where the model moves points, and `sample_points` its samples. All calls use the same
    images and random numbers. The model is left unchanged. `sampling/logged_images.py` reads `reconstruction` and
    `samples` by these tags and cuts the grids into tiles.
    """
    with examples.evaluation_mode(model):
        return (
            draw_planar(model, source, seed) if examples.is_planar(source.shape) else draw_images(model, source, seed)
        )


def draw_planar(model: Model, source: Source, seed: int) -> dict[str, Tensor]:
    """Return the pictures for planar data by name."""
    # Imported here: only planar data need matplotlib, which takes as long as all other imports of training.
    from aectl.figures import planar_fields, style

    drawn: dict[str, Tensor] = {}
    with style.default_style():
        if isinstance(model, Reconstructs):
            drawn["field"] = planar_fields.render_figure(planar_fields.vector_field(model, source, "g(f(x)) - x"), DPI)
        if isinstance(model, Samples):
            points = model.sample(len(source), rng=Rng(seed, source.images.device).fork("samples"))
            panels = {"data": source.pixels(), "samples": points}
            drawn["sample_points"] = planar_fields.render_figure(planar_fields.points(panels, "samples"), DPI)
    return drawn


def draw_images(model: Model, source: Source, seed: int) -> dict[str, Tensor]:
    """Return the pictures for images by name."""
    drawn: dict[str, Tensor] = {}
    if isinstance(model, Reconstructs):
        x = examples.examples(source, EXAMPLES)
        noisy = examples.corrupt_images(model, x, seed)
        seen = x if noisy is None else noisy
        rows = [x, *([] if noisy is None else [noisy]), model.reconstruct(seen)]
        drawn["reconstruction"] = make_grid(torch.cat(rows), len(x))
    if isinstance(model, Samples):
        rng = Rng(seed, source.images.device).fork("samples")
        drawn["samples"] = make_grid(model.sample(SAMPLES, rng=rng), COLUMNS)
    if (tiles := examples.filter_tiles(model, source.shape)) is not None:
        drawn["filters"] = make_grid(tiles, COLUMNS + 2)
    if paths.has_plane(model):
        request = Request(1, Rng(seed, source.images.device), 1.0, source)
        drawn["latent_grid"] = make_grid(
            paths.decode_plane(model, request, GRID_SIDE)["images"].flatten(0, 1), GRID_SIDE
        )
    return drawn


def make_grid(images: Tensor, columns: int) -> Tensor:
    """Arrange images [N, C, H, W] in rows of `columns`; returns one image [C, H′, W′] in [0, 1] on the CPU.

    Small images are enlarged by an integer factor, and large ones shrunk to `thumbnail_shape`. Unlike torchvision's
    `make_grid`, which is similar, this needs no import of torchvision, which takes longer than a small run.
    """
    pixels = shrink(images.detach().float().clamp(0, 1)).cpu()
    # Without the second bound, long and narrow images become grids of 17 million pixels.
    factor = max(1, min(round(MIN_TILE / pixels.shape[-1]), MAX_TILE // max(pixels.shape[-2:])))
    tiles = functional.pad(pixels, (1, 0, 1, 0), value=1.0)
    columns = min(columns, len(tiles))
    blank = tiles.new_ones(-len(tiles) % columns, *tiles.shape[1:])
    rows = torch.cat([tiles, blank]).unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
    sheet = functional.pad(rows.flatten(3).flatten(1, 2), (0, 1, 0, 1), value=1.0)
    return sheet.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
