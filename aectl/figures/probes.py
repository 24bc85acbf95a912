"""What the pictures show of a model: fixed examples, codes, filters, paths and the plane of a two-dimensional code.

Every probe asks for abilities, never for a kind of model, and is a function of the model and a seed: nothing here
draws from the run's own random numbers. Wrap calls in `at_rest`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aectl.data.datasets import Source
from aectl.models.base import Decodes, Encodes, Model, Samples
from aectl.rng import Rng

BATCH = 500
"""Images that are encoded at a time."""
CENTRAL = (0.025, 0.975)
"""The quantiles between which the plane of a two-dimensional code is shown: the central 95 %."""


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


def first(source: Source, n: int) -> Tensor:
    """Return the positions of the first `n` images, fewer if there are not so many."""
    return torch.arange(min(n, len(source)), device=source.images.device)


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


def codes(model: Encodes, source: Source, n: int) -> Tensor:
    """Return the codes [n, code] of the first `n` images, on the CPU."""
    parts = [model.encode(source.batch(part).x).flatten(1).float().cpu() for part in first(source, n).split(BATCH)]
    return torch.cat(parts)


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


def plane(model: Model, source: Source, side: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images [side, side, C, H, W] decoded over the plane of a two-dimensional code, with their coordinates.

    The first coordinate grows to the right, the second upwards, so the first row has the largest. A model that
    samples has a standard normal prior, and the coordinates are its quantiles; otherwise they run evenly over the
    central 95 % of the codes of `n` images. Both are [side], ascending.
    """
    if isinstance(model, Samples):
        across = up = torch.special.ndtri(torch.linspace(*CENTRAL, side))
    else:
        low, high = codes(model, source, n).quantile(torch.tensor(CENTRAL), dim=0)
        across, up = (torch.linspace(float(low[i]), float(high[i]), side) for i in (0, 1))
    z = torch.stack([across.repeat(side), up.flip(0).repeat_interleave(side)], 1).to(source.images.device)
    images = model.decode(z).float().cpu()
    return images.view(side, side, *images.shape[1:]), across, up


def has_plane(model: Model) -> bool:
    """Return whether `plane` can be drawn: codes of two numbers, and a way to tell where they lie."""
    lies_somewhere = isinstance(model, (Samples, Encodes))
    return isinstance(model, Decodes) and lies_somewhere and getattr(model, "code", None) == 2


def has_paths(model: Model) -> bool:
    """Return whether `paths` can be drawn: codes to decode, and two ends from images or from a prior."""
    return (isinstance(model, Encodes) and isinstance(model, Decodes)) or has_prior(model)


def has_prior(model: Model) -> bool:
    """Return whether codes for `decode` can be drawn from N(0, I), whose width is the attribute `code`."""
    return isinstance(model, Decodes) and isinstance(model, Samples) and isinstance(getattr(model, "code", None), int)


def paths(model: Model, source: Source, rows: int, steps: int, seed: int) -> Tensor:
    """Return images [rows, steps, C, H, W] decoded along ways between two codes.

    For a model that encodes, the ways are straight lines between the codes of two images. Otherwise they are great
    circles between two draws from the normal prior: on a straight line the codes between would be too short for it.
    """
    device = source.images.device
    if isinstance(model, Encodes):
        ends = model.encode(examples(source, 2 * rows)).flatten(1)
        start, end = ends[: len(ends) // 2, None], ends[len(ends) // 2 :][: len(ends) // 2, None]
        share = torch.linspace(0, 1, steps, device=device)[None, :, None]
        z = (1 - share) * start + share * end
    else:
        rng = Rng(seed, device).fork("paths")
        start, end = rng.normal(rows, 1, model.code), rng.normal(rows, 1, model.code)
        angle = torch.linspace(0, torch.pi / 2, steps, device=device)[None, :, None]
        z = angle.cos() * start + angle.sin() * end
    images = model.decode(z.flatten(0, 1)).float().cpu()
    return images.view(*z.shape[:2], *images.shape[1:])
