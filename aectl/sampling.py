"""What pictures a trained model can be asked for, and which abilities each kind of them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.models.base import Decodes, Encodes, Model, Reconstructs, Samples
from aectl.rng import Rng

STEPS = 10
"""Images in a row of interpolations, and on a side of the manifold's grid times two."""


@dataclass(frozen=True)
class Request:
    """How many images of which temperature to make from which seed, and the images to start from."""

    n: int
    rng: Rng
    temperature: float
    source: Source

    def images(self, count: int) -> Tensor:
        """Return `count` images of the source, chosen by the seed; fewer if it holds fewer."""
        chosen = self.rng.fork("images").permutation(len(self.source))[:count]
        return self.source.batch(chosen).x


@dataclass(frozen=True)
class Kind:
    """A kind of picture: whether a model can make it, how, and what a model that cannot is lacking."""

    verb: str
    lacks: str
    can: Callable[[type | Model], bool]
    make: Callable[[Model, Request], dict[str, Tensor]]


def has(model: type | Model, *abilities: type) -> bool:
    """Return whether a model, or a class of models, has all the given abilities."""
    test = issubclass if isinstance(model, type) else isinstance
    return all(test(model, ability) for ability in abilities)


def prior(model: Samples, request: Request) -> dict[str, Tensor]:
    """Draw images from the prior: `images` [n, C, H, W]."""
    return {"images": model.sample(request.n, rng=request.rng.fork("prior"), temperature=request.temperature)}


def reconstruction(model: Reconstructs, request: Request) -> dict[str, Tensor]:
    """Bring test images back through the code: `x`, `x_hat`, and under the model's own noise also `noisy`."""
    x = request.images(request.n)
    noise = getattr(model, "noise", None)
    noisy = {} if noise is None else {"noisy": noise(x, request.rng.fork("noise"))}
    return {"x": x, **noisy, "x_hat": model.reconstruct(noisy.get("noisy", x))}


def interpolation(model: Decodes, request: Request) -> dict[str, Tensor]:
    """Walk on straight lines between codes: `images` [rows, STEPS, C, H, W] and the `codes` [rows, STEPS, code].

    The ends are codes of test images where the model encodes, else draws from its prior.
    """
    rows = max(request.n // STEPS, 1)
    if isinstance(model, Encodes):
        ends = model.encode(request.images(2 * rows))
    else:
        ends = request.temperature * request.rng.fork("prior").normal(2 * rows, model.code)
    rows = len(ends) // 2
    start, end = ends[:rows, None], ends[rows : 2 * rows, None]
    share = torch.linspace(0, 1, STEPS, device=ends.device)[:, None]
    codes = (1 - share) * start + share * end
    images = model.decode(codes.flatten(0, 1))
    return {"images": images.unflatten(0, (rows, STEPS)), "codes": codes}


def manifold(model: Decodes, request: Request) -> dict[str, Tensor]:
    """Decode a square grid of two-dimensional codes: `images` [side, side, C, H, W], row by row from the top.

    The grid holds the central 95 % of a standard normal where the model has that prior, else of the codes of test
    images.
    """
    side = 2 * STEPS
    device = request.rng.device
    if isinstance(model, Samples):
        edge = torch.tensor([[-1.96, -1.96], [1.96, 1.96]])
    else:
        codes = model.encode(request.images(5000))
        edge = codes.quantile(torch.tensor([0.025, 0.975], device=device), dim=0)
    low, high = edge.to(device)
    share = torch.linspace(0, 1, side, device=device)
    horizontal = low[0] + share * (high[0] - low[0])
    vertical = high[1] - share * (high[1] - low[1])
    codes = torch.stack(torch.meshgrid(horizontal, vertical, indexing="xy"), -1)
    return {"images": model.decode(codes.flatten(0, 1)).unflatten(0, (side, side)), "codes": codes}


def has_plane(model: type | Model) -> bool:
    """Return whether a model decodes two-dimensional codes; of a class that depends on the run, so that says yes."""
    if not has(model, Decodes) or not (has(model, Samples) or has(model, Encodes)):
        return False
    return isinstance(model, type) or model.code == 2


KINDS: dict[str, Kind] = {
    "prior": Kind("sample", "it has no prior", lambda m: has(m, Samples), prior),
    "reconstruction": Kind("reconstruct", "it has no encoder", lambda m: has(m, Reconstructs), reconstruction),
    "interpolation": Kind("interpolate", "it decodes no codes", lambda m: has(m, Decodes), interpolation),
    "manifold": Kind("draw its manifold", "its code is not two-dimensional (model.code=2)", has_plane, manifold),
}
