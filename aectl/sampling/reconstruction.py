"""What a model makes of images: once, and again and again from what it made before."""

from __future__ import annotations

import torch
from torch import nn

from aectl.models.base import Model, Reconstructs
from aectl.sampling.request import STEPS, Arrays, Request, has


def reconstruction(model: Reconstructs, request: Request) -> Arrays:
    """Bring test images back through the code: `x`, `x_hat`, and under the model's own noise also `noisy`."""
    x = request.images(request.n)
    noise = getattr(model, "noise", None)
    noisy = {} if noise is None else {"noisy": noise(x, request.rng.fork("noise"))}
    return {"x": x, **noisy, "x_hat": model.reconstruct(noisy.get("noisy", x))}


def chain(model: Reconstructs, request: Request) -> Arrays:
    """Walk a Markov chain from test images: x̃ ~ Ñ(x), then x ← g(f(x̃)), cut to [0, 1], and again.

    `images` [rows, states, C, H, W] are about STEPS of the states after the first, evenly spread, and `steps` [states]
    says after how many steps each. Were x drawn from p(x | x̃), the chain would come to draw from a distribution near
    that of the data (Bengio et al. 2013, "Generalized denoising auto-encoders as generative models"). Here x is the
    mean of p(x | x̃), which an autoencoder gives: cleaner images, and fewer of the rare ones.
    """
    rng = request.rng.fork("chain")
    x = request.images(request.rows)
    shown = sorted({round(i * request.steps / STEPS) for i in range(STEPS + 1)})
    states = [x]
    for step in range(1, request.steps + 1):
        x = model.reconstruct(model.noise(x, rng)).clamp(0, 1)
        if step in shown:
            states.append(x)
    return {"images": torch.stack(states, 1), "steps": torch.tensor(shown)}


def has_chain(model: type | Model) -> bool:
    """Return whether a model reconstructs and has its own noise; of a class that depends on the run: yes."""
    has_noise = isinstance(model, type) or isinstance(getattr(model, "noise", None), nn.Module)
    return has(model, Reconstructs) and has_noise
