"""What a model makes of images: once, and again and again from what it made before."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from aectl.models.base import Model, Reconstructs, Walks
from aectl.rng import Rng
from aectl.sampling.kind import Kind
from aectl.sampling.request import STEPS, Arrays, Request, has


def reconstruction(model: Model, request: Request) -> Arrays:
    """Bring test images back through the code: `x`, `x_hat`, and under the model's own noise also `noisy`."""
    x = request.images(request.n)
    noise = getattr(model, "noise", None)
    noisy = {} if noise is None else {"noisy": noise(x, request.rng.fork("noise"))}
    return {"x": x, **noisy, "x_hat": cast("Reconstructs", model).reconstruct(noisy.get("noisy", x))}


def chain(model: Model, request: Request) -> Arrays:
    """Walk a Markov chain: `images` [rows, states, C, H, W] and after how many steps each, `steps` [states].

    Where a model walks, its own steps from its own `start`; else from test images by `corrupt_and_reconstruct`.
    """
    rng = request.rng.fork("chain")
    x = model.start(request.rows, rng=rng) if isinstance(model, Walks) else request.images(request.rows)
    marks = shown(request)
    states = [x] if marks[0] == 0 else []
    for step in range(1, marks[-1] + 1):
        x = model.walk(x, rng) if isinstance(model, Walks) else corrupt_and_reconstruct(model, x, rng)
        if step in marks:
            states.append(x)
    return {"images": torch.stack(states, 1), "steps": torch.tensor(marks)}


def shown(request: Request) -> list[int]:
    """Return after how many steps a chain is shown: STEPS times behind the burn-in, and at its end."""
    if request.thinning is not None:
        return [request.burn_in + i * request.thinning for i in range(STEPS + 1)]
    return sorted({request.burn_in + round(i * request.steps / STEPS) for i in range(STEPS + 1)})


def corrupt_and_reconstruct(model: Model, x: Tensor, rng: Rng) -> Tensor:
    """Return x̃ ~ Ñ(x), then g(f(x̃)), cut to [0, 1].

    Were the next x drawn from p(x | x̃), the chain would come to draw from a distribution near that of the data (Bengio
    et al. 2013, "Generalized denoising auto-encoders as generative models"). Here it is the mean of p(x | x̃), which an
    autoencoder gives: cleaner images, and fewer of the rare ones.
    """
    return cast("Reconstructs", model).reconstruct(cast("nn.Module", model.noise)(x, rng)).clamp(0, 1)


def has_chain(model: type | Model) -> bool:
    """Return whether a model walks, or reconstructs and has its own noise; of a class that depends on the run: yes."""
    has_noise = isinstance(model, type) or isinstance(getattr(model, "noise", None), nn.Module)
    return has(model, Walks) or (has(model, Reconstructs) and has_noise)


def chain_title(model: Model, request: Request) -> str:
    """Return the title of a chain, with what its steps are."""
    if has(model, Walks):
        return "The model's own Markov chain, from states spread wider than its distribution"
    return "A Markov chain from test images: corrupt, take the mean reconstruction, repeat"


KINDS = (
    Kind(
        "reconstruction",
        "test images and their reconstructions",
        can=lambda model: has(model, Reconstructs),
        make=reconstruction,
        verb="reconstruct",
        lacks="it has no encoder",
        title=lambda model, request: "Reconstructions of test images",
        layout="reconstructions",
        needs=lambda model: ("test",),
        order=30,
    ),
    Kind(
        "chain",
        "a Markov chain: the model's own, or corrupt, reconstruct, repeat",
        can=has_chain,
        make=chain,
        verb="walk a Markov chain",
        lacks="it has none of its own, and it does not reconstruct or was trained without noise (noise=gaussian)",
        title=chain_title,
        layout="chains",
        heeds=lambda model: ("steps", "burn_in", "thinning"),
        needs=lambda model: () if has(model, Walks) else ("test",),
        order=70,
    ),
)
