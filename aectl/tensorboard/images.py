"""Small pictures of a model for every epoch of training, as tensors for TensorBoard."""

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

EXAMPLES, SAMPLES, COLUMNS, SIDE = 10, 64, 8, 12
DPI = 70
"""Dots per inch of pictures of the plane."""
TILE = 56
"""Pixels: the width that small images are enlarged to, 2 × MNIST's, so that they read well."""
LONGEST_TILE = 224
"""Pixels of the longer side up to which images are enlarged."""


def pictures(model: Model, source: Source, seed: int = 0) -> dict[str, Tensor]:
    """Return grids [C, H, W] in [0, 1] by name, as far as the model's abilities go.

    `reconstruction` has the rows input, noisy (if the model has noise) and reconstruction, of the same images at
    every call; `samples` are drawn with the same random numbers at every call; `filters` are the weights of a dense
    first layer, grey for 0; `latent_grid` shows the plane of a two-dimensional code. Of planar data there are `field`,
    where the model moves points, and `sample_points`. Leaves the model as it was.
    """
    with examples.at_rest(model):
        return planar(model, source, seed) if examples.is_planar(source.shape) else of_images(model, source, seed)


def planar(model: Model, source: Source, seed: int) -> dict[str, Tensor]:
    """Return pictures of a model of points in the plane by name."""
    # Imported here: matplotlib, which only points need, takes as long as everything else that training imports.
    from aectl.figures import planar_fields, style

    drawn: dict[str, Tensor] = {}
    with style.default_style():
        if isinstance(model, Reconstructs):
            drawn["field"] = planar_fields.rendered(planar_fields.vector_field(model, source, "g(f(x)) - x"), DPI)
        if isinstance(model, Samples):
            points = model.sample(len(source), rng=Rng(seed, source.images.device).fork("samples"))
            panels = {"data": source.pixels(), "samples": points}
            drawn["sample_points"] = planar_fields.rendered(planar_fields.points(panels, "samples"), DPI)
    return drawn


def of_images(model: Model, source: Source, seed: int) -> dict[str, Tensor]:
    """Return pictures of a model of images by name."""
    drawn: dict[str, Tensor] = {}
    if isinstance(model, Reconstructs):
        x = examples.examples(source, EXAMPLES)
        noisy = examples.corrupted(model, x, seed)
        seen = x if noisy is None else noisy
        rows = [x, *([] if noisy is None else [noisy]), model.reconstruct(seen)]
        drawn["reconstruction"] = grid(torch.cat(rows), len(x))
    if isinstance(model, Samples):
        rng = Rng(seed, source.images.device).fork("samples")
        drawn["samples"] = grid(model.sample(SAMPLES, rng=rng), COLUMNS)
    if (tiles := examples.filter_tiles(model, source.shape)) is not None:
        drawn["filters"] = grid(tiles, COLUMNS + 2)
    if paths.has_plane(model):
        request = Request(1, Rng(seed, source.images.device), 1.0, source)
        drawn["latent_grid"] = grid(paths.manifold(model, request, SIDE)["images"].flatten(0, 1), SIDE)
    return drawn


def grid(images: Tensor, columns: int) -> Tensor:
    """Return images [N, C, H, W] as one [C, H′, W′] in rows of `columns`, on the CPU, cut to [0, 1].

    Small images are enlarged by a whole number, and large ones shrunk to `thumbnail_shape`.

    As torchvision's make_grid with white lines, but torchvision's import, with that of torch's compiler, takes longer
    than a small run.
    """
    pixels = shrink(images.detach().float().clamp(0, 1)).cpu()
    # Images that are long and narrow would else become sheets of 17 million pixels.
    factor = max(1, min(round(TILE / pixels.shape[-1]), LONGEST_TILE // max(pixels.shape[-2:])))
    tiles = functional.pad(pixels, (1, 0, 1, 0), value=1.0)
    columns = min(columns, len(tiles))
    blank = tiles.new_ones(-len(tiles) % columns, *tiles.shape[1:])
    rows = torch.cat([tiles, blank]).unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)
    sheet = functional.pad(rows.flatten(3).flatten(1, 2), (0, 1, 0, 1), value=1.0)
    return sheet.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
