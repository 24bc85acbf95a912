"""Reconstruct images once, or repeatedly as a Markov chain."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from aectl.models.base import Model, Reconstructs, Walks
from aectl.rng import Rng
from aectl.sampling.kind import Kind
from aectl.sampling.request import STEPS, Arrays, Request, has


def reconstruct_images(model: Model, request: Request) -> Arrays:
    """Reconstruct test images: `x`, `x_hat` and, if the model has noise, the corrupted images `noisy`."""
    x = request.images(request.n)
    noise = getattr(model, "noise", None)
    noisy = {} if noise is None else {"noisy": noise(x, request.rng.fork("noise"))}
    return {"x": x, **noisy, "x_hat": cast("Reconstructs", model).reconstruct(noisy.get("noisy", x))}


def run_chain(model: Model, request: Request) -> Arrays:
    """Run Markov chains: `images` [rows, states, C, H, W] after `steps` [states] steps.

    A model with its own chain (`Walks`) starts from its `start`; others start from test images and take the steps of
    `corrupt_and_reconstruct`.
    """
    rng = request.rng.fork("chain")
    x = model.start(request.rows, rng=rng) if isinstance(model, Walks) else request.images(request.rows)
    marks = shown_steps(request)
    states = [x] if marks[0] == 0 else []
    for step in range(1, marks[-1] + 1):
        x = model.walk(x, rng) if isinstance(model, Walks) else corrupt_and_reconstruct(model, x, rng)
        if step in marks:
            states.append(x)
    return {"images": torch.stack(states, 1), "steps": torch.tensor(marks)}


def shown_steps(request: Request) -> list[int]:
    """Return the numbers of steps after which a chain is shown: STEPS + 1 from the end of the burn-in to the last."""
    if request.thinning is not None:
        return [request.burn_in + i * request.thinning for i in range(STEPS + 1)]
    return sorted({request.burn_in + round(i * request.steps / STEPS) for i in range(STEPS + 1)})


def corrupt_and_reconstruct(model: Model, x: Tensor, rng: Rng) -> Tensor:
    """Return g(f(x̃)) for x̃ ~ Ñ(x), clipped to [0, 1].

    If the next x were sampled from p(x | x̃), the stationary distribution would approximate that of the data (Bengio et
    al. 2013, "Generalized denoising auto-encoders as generative models"). An autoencoder returns the mean of p(x | x̃)
    instead, which gives cleaner but less diverse images.
    """
    return cast("Reconstructs", model).reconstruct(cast("nn.Module", model.noise)(x, rng)).clamp(0, 1)


def has_chain(model: type | Model) -> bool:
    """Return whether a model has its own chain, or reconstructs and has noise; true for a class that may have noise."""
    has_noise = isinstance(model, type) or isinstance(getattr(model, "noise", None), nn.Module)
    return has(model, Walks) or (has(model, Reconstructs) and has_noise)


def chain_title(model: Model, request: Request) -> str:
    """Return the title of a chain, which describes its steps."""
    if has(model, Walks):
        return "The model's own Markov chain, from states more dispersed than its distribution"
    return "A Markov chain from test images: corrupt, take the mean reconstruction, repeat"


KINDS = (
    Kind(
        "reconstruction",
        "test images and their reconstructions",
        can=lambda model: has(model, Reconstructs),
        make=reconstruct_images,
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
        make=run_chain,
        verb="walk a Markov chain",
        lacks="it has no chain of its own, and does not reconstruct or was trained without noise (noise=gaussian)",
        title=chain_title,
        layout="chains",
        uses=lambda model: ("steps", "burn_in", "thinning"),
        needs=lambda model: () if has(model, Walks) else ("test",),
        order=70,
    ),
)
