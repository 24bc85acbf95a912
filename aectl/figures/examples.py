"""What the pictures show of a model: fixed examples, what noise makes of them, codes and filters.

Every probe asks for abilities, never for a kind of model, and is a function of the model and a seed: nothing here
draws from the run's own random numbers. Wrap calls in `at_rest`.
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
def at_rest(model: nn.Module) -> Iterator[None]:
    """Context in which `model` is in evaluation mode and takes no gradients; then each part has its own mode again."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def examples(source: Source, n: int) -> Tensor:
    """Return `n` images [n, C, H, W], always the same: the first of each class, then those that come first."""
    labels = source.labels.tolist()
    leading = {label: i for i, label in reversed(list(enumerate(labels))) if label >= 0}
    chosen = [leading[label] for label in sorted(leading)][:n]
    others = (i for i in range(len(labels)) if i not in set(chosen))
    chosen += [i for i, _ in zip(others, range(n - len(chosen)), strict=False)]
    return source.batch(torch.tensor(chosen, device=source.images.device)).x


def corrupted(model: Model, x: Tensor, seed: int) -> Tensor | None:
    """Return what a model that trains on noise sees of `x`, or None for a model without noise."""
    noise = getattr(model, "noise", None)
    return None if noise is None else noise(x, Rng(seed, x.device).fork("noise"))


def encode_first(model: Encodes, source: Source, n: int) -> Tensor:
    """Return the codes [n, code] of the first `n` images, on the CPU."""
    return encode_source(model, source, BATCH, source.positions(n)).cpu()


def posterior_means(model: HasPosterior, source: Source, n: int) -> Tensor:
    """Return the posterior means [n, code] of the first `n` images, on the CPU."""
    return apply_to_source(lambda x: model.posterior(x)[0], source, BATCH, source.positions(n)).cpu()


def pixel_layer(model: nn.Module, pixels: int) -> nn.Linear | None:
    """Return the first dense layer whose inputs are the image's pixels, or None.

    The number of inputs does not settle it, since a code or a convolution's output may have as many: the layer must
    follow an `nn.Flatten` with no convolution before it.
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
    """Return the weights of the first `n` units of the first layer as images [n, C, H, W], or None if it is not dense.

    Each tile has its own scale, symmetric about zero: 0.5 is weight 0, and 0 or 1 the largest of either sign.
    """
    layer = pixel_layer(model, shape[0] * shape[1] * shape[2])
    if layer is None:
        return None
    weights = layer.weight.detach()[:n].float().cpu()
    largest = weights.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return (0.5 + 0.5 * weights / largest).view(-1, *shape)


def is_planar(shape: tuple[int, int, int]) -> bool:
    """Return whether images of `shape` (C, H, W) are points of the plane: two values in all."""
    return math.prod(shape) == 2
