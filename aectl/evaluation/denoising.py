"""Denoising: the model compared with the best affine denoiser and with no denoising."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian, Masking, SaltAndPepper
from aectl.evaluation.context import Benchmark, Row, Rows, Subject, Unmeasured, apply, digest, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.pca import PCA
from aectl.evaluation.reconstruction import FIDELITY, PSNR, fidelity, psnr, psnr_ci95
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Reconstructs
from aectl.rng import Rng

NOISES: dict[str, Callable[[], nn.Module]] = {
    "gaussian_0.5": partial(Gaussian, 0.5),
    "gaussian_1": partial(Gaussian, 1.0),
    "gaussian_2": partial(Gaussian, 2.0),
    "masking_0.25": partial(Masking, 0.25),
    "masking_0.5": partial(Masking, 0.5),
    "masking_0.75": partial(Masking, 0.75),
    "salt_and_pepper_0.25": partial(SaltAndPepper, 0.25),
}
"""The noises that every model is tested under, whatever it was trained with."""

UNDER_EACH = (Metric("*", "PSNR of the restored images under this noise", "higher", "dB"),)
"""The columns of `measure_each_noise`, each named after a noise."""

PASSES = 3
"""Noisy copies of each training image that moments without a closed form are estimated from."""

HEADLINE = Headline(
    "denoising",
    PSNR,
    (("best affine", "noisy input"),),
    rank=2,
    words={"best affine": "best affine denoiser"},
    ci95=psnr_ci95,
)


def measure(subject: Subject) -> Rows:
    """Return the fidelity of images restored from the run's own noise, with the same noisy images for every row.

    Raises Unmeasured for a model without noise.
    """
    bench, noise = subject.bench, getattr(subject.model, "noise", None)
    if noise is None:
        raise Unmeasured("it is under the run's own noise, and the run has none")
    x = bench.held_out.pixels()
    noisy = corrupt(x, noise, bench)
    judge, seen = (None, None) if isinstance(bench.judge, str) else (bench.judge, bench.seen.features)

    def baselines() -> Rows:
        affine = AffineDenoiser(moments(noise, bench))
        restored = {"best affine": affine(noisy), "noisy input": noisy}
        return {name: fidelity(x, images, judge, seen) for name, images in restored.items()}

    name = f"denoising-{noise_key(noisy, noise, bench)}{f'-{judge.name}' if judge else ''}"
    row = fidelity(x, apply(cast("Reconstructs", subject.model).reconstruct, noisy), judge, seen)
    return {"model": row, **bench.cache.numbers(name, baselines)}


def measure_each_noise(subject: Subject) -> Rows:
    """Return the PSNR in dB under each of `NOISES`; the column "none" is the model on clean images."""
    bench, model = subject.bench, cast("Reconstructs", subject.model)
    x = bench.held_out.pixels()
    rows: Rows = {"model": decibels(x, subject.reconstructed, "none"), "best affine": {}, "noisy input": {}}
    for name, build in NOISES.items():
        noise = build().to(x.device)
        noisy = corrupt(x, noise, bench)

        def baselines(name: str = name, noise: nn.Module = noise, noisy: Tensor = noisy) -> Rows:
            affine = AffineDenoiser(moments(noise, bench))
            return {"best affine": decibels(x, affine(noisy), name), "noisy input": decibels(x, noisy, name)}

        rows["model"] |= decibels(x, apply(model.reconstruct, noisy), name)
        for other, row in bench.cache.numbers(f"psnr-{noise_key(noisy, noise, bench)}", baselines).items():
            rows[other] |= row
    return rows


@torch.no_grad()
def corrupt(x: Tensor, noise: nn.Module, bench: Benchmark) -> Tensor:
    """Return the held-out images x under a noise; the same noise gives the same images in every table."""
    return noise(x, bench.rng("denoising"))


def noise_key(noisy: Tensor, noise: nn.Module, bench: Benchmark) -> str:
    """Return a name for noisy images, by their digest.

    It depends on the noise, its parameters and the seed, and changes also if the code of a user's own noise changes.
    """
    return f"{type(noise).__name__.lower()}-{digest(replace(bench.held_out, images=noisy))}"


def decibels(clean: Tensor, restored: Tensor, name: str) -> Row:
    """Return the PSNR of the mean squared error in dB as `name`, with the interval that the error's interval gives."""
    error = mean_ci95((clean - restored).square().flatten(1).mean(1), "mse")
    if not error["mse"] > 0:
        return {name: psnr(error["mse"])}
    # d PSNR = -10 / ln 10 · d MSE / MSE
    return {name: psnr(error["mse"]), f"{name}_ci95": 10 / math.log(10) * error["mse_ci95"] / error["mse"]}


class Moments(NamedTuple):
    """The moments of images x and noisy images x̃ that determine the best affine denoiser, in double precision."""

    mean: Tensor
    """E[x], [pixels]."""
    noisy_mean: Tensor
    """E[x̃], [pixels]."""
    covariance: Tensor
    """Cov(x̃), [pixels, pixels]."""
    cross: Tensor
    """Cov(x̃, x), [pixels, pixels]."""


class AffineDenoiser:
    """The affine map of the noisy image with the least squared error, clamped to [0, 1]; the Wiener filter.

    x̂ = E[x] + Cov(x, x̃) Cov(x̃)⁻¹ (x̃ - E[x̃]).
    """

    def __init__(self, found: Moments) -> None:
        self.mean, self.noisy_mean = found.mean, found.noisy_mean
        # Constant pixels make the covariance singular. Rounding to 256 levels adds more than 1e-6.
        ridge = 1e-6 * torch.eye(len(found.mean), dtype=found.covariance.dtype, device=found.covariance.device)
        self.matrix = torch.linalg.solve(found.covariance + ridge, found.cross)

    def __call__(self, noisy: Tensor) -> Tensor:
        """Return the restored images [N, C, H, W]."""
        restored = (noisy.flatten(1).double() - self.noisy_mean) @ self.matrix + self.mean
        return restored.clamp(0, 1).to(noisy.dtype).view_as(noisy)


def moments(noise: nn.Module, bench: Benchmark) -> Moments:
    """Return the moments of the training images under a noise: exact if there is a closed form, else estimated."""
    known = pixelwise(noise)
    if known:
        return exact_moments(known, bench.pca)
    return estimate_moments(noise, bench.train, bench.rng("denoising", "fit"))


class Pixelwise(NamedTuple):
    """A noise that acts on each pixel independently: E[x̃|x] = gain x + offset, Var[x̃|x] = a + b x + c x²."""

    gain: float
    offset: float
    variance: tuple[float, float, float]
    """a, b, c"""


def pixelwise(noise: nn.Module) -> Pixelwise | None:
    """Return a noise as `Pixelwise`, None if it is not known to be one."""
    kind = type(noise)  # not isinstance: a subclass may act in another way
    if kind is Gaussian and not noise.clip:
        return Pixelwise(1.0, 0.0, (float(cast("Gaussian", noise).std) ** 2, 0.0, 0.0))
    if kind is Masking:
        p = float(cast("Masking", noise).p)
        return Pixelwise(1 - p, 0.0, (0.0, 0.0, p * (1 - p)))
    if kind is SaltAndPepper:
        p = float(cast("SaltAndPepper", noise).p)
        # E[x̃²|x] = (1 - p) x² + p/2, less the square of E[x̃|x] = (1 - p) x + p/2.
        return Pixelwise(1 - p, p / 2, (p / 2 - p * p / 4, -p * (1 - p), p * (1 - p)))
    return None


def exact_moments(noise: Pixelwise, pca: PCA) -> Moments:
    """Return the moments under a pixelwise noise, computed from those of the clean images.

    Cov(x̃) = gain² Cov(x) + diag(E Var[x̃|x]) and Cov(x̃, x) = gain Cov(x).
    """
    covariance = pca.components * pca.variances @ pca.components.T
    a, b, c = noise.variance
    spread = a + b * pca.mean + c * (covariance.diagonal() + pca.mean.square())
    return Moments(
        mean=pca.mean,
        noisy_mean=noise.gain * pca.mean + noise.offset,
        covariance=noise.gain**2 * covariance + spread.diag(),
        cross=noise.gain * covariance,
    )


@torch.no_grad()
def estimate_moments(noise: nn.Module, source: Source, rng: Rng) -> Moments:
    """Return the moments of a source's images under any noise, estimated from `PASSES` draws of each image."""
    indices = source.positions()
    sums = [torch.zeros((), dtype=torch.float64, device=indices.device)] * 4
    for part in indices.repeat(PASSES).split(5000):
        x = source.batch(part).x
        noisy = noise(x, rng).flatten(1).double()
        x = x.flatten(1).double()
        terms = (x.sum(0), noisy.sum(0), noisy.T @ noisy, noisy.T @ x)
        sums = [a + b for a, b in zip(sums, terms, strict=True)]
    mean, noisy_mean, covariance, cross = (total / (PASSES * len(source)) for total in sums)
    return Moments(
        mean, noisy_mean, covariance - torch.outer(noisy_mean, noisy_mean), cross - torch.outer(noisy_mean, mean)
    )


EVALUATIONS = (
    Evaluation(
        "denoising",
        "denoising, under the run's own noise",
        (Reconstructs,),
        measure,
        FIDELITY,
        order=20,
        headline=HEADLINE,
        settings=("judge",),
    ),
    Evaluation(
        "noises", "denoising, PSNR in dB under each noise", (Reconstructs,), measure_each_noise, UNDER_EACH, order=30
    ),
)
