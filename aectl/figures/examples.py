"""Data for figures of a model: fixed example images, corrupted images, codes and filters.

Results depend only on the model and a seed; the run's own random numbers are not used. Wrap calls in
`evaluation_mode`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aectl.data.datasets import Source
from aectl.data.encoding import apply_to_source, encode_source
from aectl.models.base import Encodes, HasPosterior, Model
from aectl.rng import Rng

BATCH = 500
"""Images that are encoded at a time."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set `model` to evaluation mode without gradients within the block, then restore the mode of each submodule."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def examples(source: Source, n: int) -> Tensor:
    """Return `n` fixed images [n, C, H, W]: the first image of each class, then the first remaining ones."""
    labels = source.labels.tolist()
    leading = {label: i for i, label in reversed(list(enumerate(labels))) if label >= 0}
    chosen = [leading[label] for label in sorted(leading)][:n]
    others = (i for i in range(len(labels)) if i not in set(chosen))
    chosen += [i for i, _ in zip(others, range(n - len(chosen)), strict=False)]
    return source.batch(torch.tensor(chosen, device=source.images.device)).x


def corrupt_images(model: Model, x: Tensor, seed: int) -> Tensor | None:
    """Return `x` corrupted by the model's noise, or None for a model without noise."""
    noise = getattr(model, "noise", None)
    return None if noise is None else noise(x, Rng(seed, x.device).fork("noise"))


def encode_first(model: Encodes, source: Source, n: int) -> Tensor:
    """Return the codes [n, code] of the first `n` images, on the CPU."""
    return encode_source(model, source, BATCH, source.positions(n)).cpu()


def posterior_means(model: HasPosterior, source: Source, n: int) -> Tensor:
    """Return the posterior means [n, code] of the first `n` images, on the CPU."""
    return apply_to_source(lambda x: model.posterior(x)[0], source, BATCH, source.positions(n)).cpu()


def pixel_layer(model: nn.Module, pixels: int) -> nn.Linear | None:
    """Return the first dense layer whose inputs are the pixels of the image, or None.

    The layer must follow an `nn.Flatten` with no convolution before it. The number of inputs alone is not sufficient:
    a code or the output of a convolution may have the same size.
    """
    flat = False
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            return None
        flat = flat or isinstance(layer, nn.Flatten)
        if flat and isinstance(layer, nn.Linear) and layer.in_features == pixels:
            return layer
    return None


def filter_tiles(model: nn.Module, shape: tuple[int, int, int], n: int = 100) -> Tensor | None:
    """Return the weights of the first `n` units of a dense first layer as images [n, C, H, W], or None.

    Each image is scaled symmetrically by its largest absolute weight: 0.5 is weight 0.
    """
    layer = pixel_layer(model, shape[0] * shape[1] * shape[2])
    if layer is None:
        return None
    weights = layer.weight.detach()[:n].float().cpu()
    largest = weights.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return (0.5 + 0.5 * weights / largest).view(-1, *shape)


def is_planar(shape: tuple[int, int, int]) -> bool:
    """Return whether images of `shape` (C, H, W) have two values, i.e. are points of the plane."""
    return math.prod(shape) == 2
