"""Figures of denoising autoencoders: Vincent's filters, and strips over noise of several strengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aectl.data.noise import Gaussian, Masking
from aectl.evaluation.anomaly import errors
from aectl.evaluation.context import apply
from aectl.evaluation.denoising import AffineDenoiser, corrupt, moments
from aectl.evaluation.reconstruction import psnr
from aectl.figures import examples, style
from lecture import panels, runs
from lecture.lab import Drawn, Lab, Numbers, squared_error

FILTERS, COLUMNS = 64, 8
DEVIATIONS, SHARES = (0.25, 0.5, 1.0, 1.5, 2.0), (0.1, 0.25, 0.5, 0.75, 0.9)
STRIP = 7
"""Images of a strip."""


def filters(lab: Lab) -> Drawn:
    """The weights of the same 64 units, from the same initial weights, after training with 0, 25 and 50 % masking."""
    figure = panels.page(9.6, 3.75)
    numbers: Numbers = {}
    for axes, share in zip(figure.subplots(1, len(runs.MASKED)), runs.MASKED, strict=True):
        subject = lab.subject(f"vincent-{share}")
        shape = subject.bench.held_out.shape
        weights = examples.pixel_layer(subject.model, math.prod(shape)).weight
        numbers[f"pixels_{share}"] = float(effective_pixels(weights).median())
        numbers[f"mse_{share}"] = squared_error(subject)
        pictures = panels.grid(examples.filter_tiles(subject.model, shape, FILTERS), COLUMNS)
        panels.tiles(axes, pictures, f"{share} % of pixels masked" if share else "no masking")
    title = f"What hidden units look at: the same {FILTERS} of {len(weights)}, trained on MNIST"
    figure.suptitle(title, fontsize=style.TITLE + 1, color=style.INK, x=0.01, ha="left")
    return figure, numbers


def effective_pixels(weights: Tensor) -> Tensor:
    """Return (Σ w²)² / Σ w⁴ of each row of weights [units, pixels]: over how many pixels a unit's energy is spread."""
    squares = weights.square()
    return squares.sum(1).square() / squares.square().sum(1)


def strips(lab: Lab) -> Drawn:
    """Noise of several strengths and what two denoising autoencoders, each trained at one of them, make of it."""
    figure = panels.page(9.6, 6.9)
    numbers: Numbers = {}
    kinds = (
        ("gaussian", "Gaussian noise", Gaussian, DEVIATIONS, "σ = {:g}"),
        ("masking", "Masking", Masking, SHARES, "p = {:g}"),
    )
    for axes, (kind, title, make, levels, label) in zip(figure.subplots(2, 1), kinds, strict=True):
        rows, names = [], []
        learnt = lab.subject(f"dae-{kind}").model.noise
        for level in levels:
            noise = make(level)
            noisy, restored, measured = denoised(lab, f"dae-{kind}", noise)
            numbers |= {f"{kind}_{level:g}_{key}": value for key, value in measured.items()}
            rows.append(torch.cat([noisy, torch.ones_like(noisy[:1]), restored]))
            star = ", as trained" if describes(noise, learnt) else ""
            before, after, affine = (round(measured[key], 1) + 0.0 for key in ("noisy", "model", "affine"))
            names.append(f"{label.format(level)}{star}\n{before} → {after} dB\n(best affine: {affine})")
        panels.tiles(axes, torch.stack(rows), f"{title}: what the DAE sees, and what it gives back", names, size=8)
    return figure, numbers


def describes(noise: nn.Module, other: nn.Module) -> bool:
    """Return whether two noises are of one strength."""
    return all(torch.equal(a, b) for a, b in zip(noise.buffers(), other.buffers(), strict=True))


@torch.no_grad()
def denoised(lab: Lab, run: str, noise: nn.Module) -> tuple[Tensor, Tensor, Numbers]:
    """Return a few corrupted test images, what the run makes of them, and three PSNR in dB over all test images.

    They are those of the noisy images, of the run, and of the best affine denoiser under this noise.
    """
    bench = lab.digits
    x = bench.held_out.pixels()
    noisy = corrupt(x, noise, bench)
    restored = apply(lab.subject(run).model.reconstruct, noisy)
    affine = AffineDenoiser(moments(noise, bench))(noisy)
    found = {"noisy": noisy, "model": restored, "affine": affine}
    chosen = panels.one_of_each(bench.held_out, 3)[:STRIP]
    return noisy[chosen], restored[chosen], {name: psnr(float(errors(x, y).mean())) for name, y in found.items()}
