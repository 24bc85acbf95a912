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
"""Images in a row of interpolations."""
CENTRAL = (0.025, 0.975)
"""The quantiles between which the plane of a two-dimensional code is shown."""


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
    """Walk from code to code: `images` [rows, STEPS, C, H, W] and their `codes` [rows, STEPS, code].

    For a model that encodes, on straight lines between the codes of two images. Otherwise on great circles between
    two draws from the normal prior: on a straight line the codes between would be too short for it.
    """
    rows = max(request.n // STEPS, 1)
    share = torch.linspace(0, 1, STEPS, device=request.rng.device)[:, None]
    if isinstance(model, Encodes):
        ends = model.encode(request.images(2 * rows))
        start, end = ends[: len(ends) // 2, None], ends[len(ends) // 2 :][: len(ends) // 2, None]
        codes = (1 - share) * start + share * end
    else:
        start, end = request.temperature * request.rng.fork("prior").normal(2, rows, 1, model.code)
        angle = 0.5 * torch.pi * share
        codes = angle.cos() * start + angle.sin() * end
    images = model.decode(codes.flatten(0, 1))
    return {"images": images.unflatten(0, codes.shape[:2]), "codes": codes}


def manifold(model: Decodes, request: Request, side: int = 2 * STEPS) -> dict[str, Tensor]:
    """Decode a square grid of two-dimensional codes: `images` [side, side, C, H, W] and `codes` [side, side, 2].

    The first coordinate grows to the right, the second upwards: the first row has the largest. A model that samples
    has a standard normal prior, and the coordinates are its quantiles; otherwise they run evenly over the central
    95 % of the codes of images.
    """
    device = request.rng.device
    if isinstance(model, Samples):
        across = up = torch.special.ndtri(torch.linspace(*CENTRAL, side)).to(device)
    else:
        low, high = model.encode(request.images(500)).quantile(torch.tensor(CENTRAL, device=device), dim=0)
        share = torch.linspace(0, 1, side, device=device)[:, None]
        across, up = (low + share * (high - low)).unbind(1)
    codes = torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), -1)
    return {"images": model.decode(codes.flatten(0, 1)).unflatten(0, (side, side)), "codes": codes}


def has_paths(model: type | Model) -> bool:
    """Return whether a model decodes codes, and images or a prior tell where they lie."""
    return has(model, Decodes) and (has(model, Samples) or has(model, Encodes))


def has_plane(model: type | Model) -> bool:
    """Return whether a model decodes two-dimensional codes; of a class that depends on the run, so that says yes."""
    return has_paths(model) and (isinstance(model, type) or getattr(model, "code", None) == 2)


KINDS: dict[str, Kind] = {
    "prior": Kind("sample", "it has no prior", lambda m: has(m, Samples), prior),
    "reconstruction": Kind("reconstruct", "it has no encoder", lambda m: has(m, Reconstructs), reconstruction),
    "interpolation": Kind("interpolate", "it decodes no codes", has_paths, interpolation),
    "manifold": Kind("draw its manifold", "its code is not two-dimensional (model.code=2)", has_plane, manifold),
}
