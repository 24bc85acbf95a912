"""Reconstruction: squared error, PSNR, SSIM and a distance in the judge's features, compared with PCA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aectl.evaluation.codes import sparsity
from aectl.evaluation.context import CHUNK, Row, Rows, Subject, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.judge import Judge
from aectl.evaluation.pca import affine_basis
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Decodes, Encodes, Reconstructs
from aectl.runs.metrics_json import MEAN_IMAGE, is_number
from aectl.runs.metrics_json import Row as AnyRow

PSNR = Metric("psnr", "peak signal-to-noise ratio of the mean squared error", "higher", "dB")
FIDELITY = (
    Metric("mse", "mean squared error per pixel", "lower"),
    PSNR,
    Metric("psnr_image", "mean over images of each one's PSNR", "higher", "dB", detail=True),
    Metric("ssim", "mean structural similarity, 1 for equal images", "higher"),
    Metric("perceptual", "squared distance in the judge's features, relative to their size", "lower"),
    Metric("perceptual_*", "the same in the features of the judge with this digest", "lower"),
)
"""What `fidelity` returns."""
ANGLE = Metric(
    "angle_to_pca_deg",
    "largest angle between the decoder's span and that of the principal components",
    unit="degrees",
    detail=True,
)

NARROWEST = 5
"""Pixels of the shorter side below which SSIM, which needs a window, is left out."""


def psnr_ci95(row: AnyRow, metric: str) -> float:
    """Return half the width of the PSNR's 95 % interval: 10 / ln 10 · ci / MSE, with the interval of the MSE."""
    mse, ci95 = row.get("mse"), row.get("mse_ci95")
    return 10 / math.log(10) * ci95 / mse if is_number(mse) and is_number(ci95) and mse > 0 else 0.0


HEADLINE = Headline("reconstruction", PSNR, (("PCA-*",), (MEAN_IMAGE,)), rank=4, ci95=psnr_ci95)


def measure(subject: Subject) -> Rows:
    """Return the fidelity of reconstructions by the model, by PCA of the code's size, and of the mean image.

    If only some units are active, PCA of as many as are active on the average image has a row too.
    """
    bench, model = subject.bench, subject.model
    x = bench.held_out.pixels()
    judge, seen = (None, None) if isinstance(bench.judge, str) else (bench.judge, bench.seen.features)
    seen_by = f"-{judge.name}" if judge else ""
    rows = {"model": fidelity(x, subject.reconstructed, judge, seen)}
    for size in pca_sizes(subject):
        name = f"PCA-{size}"

        def pca(k: int = size) -> Row:
            return fidelity(x, bench.pca.reconstruct(x, k), judge, seen)

        rows[name] = bench.cache.numbers(f"reconstruction-{name}{seen_by}", pca)
    mean = bench.pca.mean.float().view(1, *x.shape[1:])
    rows[MEAN_IMAGE] = bench.cache.numbers(
        f"reconstruction-mean{seen_by}", lambda: fidelity(x, mean.expand_as(x), judge, seen)
    )
    narrow = min(bench.pca.rank, x[0].numel() - 1)
    if isinstance(model, Decodes) and isinstance(model, Encodes) and (code := subject.codes.shape[1]) <= narrow:
        basis = affine_basis(model, code, x.device)
        if basis is not None:
            rows["model"][ANGLE.name] = bench.pca.largest_angle_deg(basis)
    return rows


def pca_sizes(subject: Subject) -> list[int]:
    """Return the numbers of components to compare with: the code's size, and the mean number of active units.

    Both are at most the rank of the training images. The second is left out if nearly all units are active.
    """
    if not isinstance(subject.model, Encodes) or not subject.bench.pca.rank:
        return []
    width = min(subject.codes.shape[1], subject.bench.pca.rank)
    active = round(sparsity(subject.codes)["active_units"])
    return [width, active] if 0 < active < 0.9 * width else [width]


def psnr(mse: float) -> float:
    """Return the peak signal-to-noise ratio 10 log10(1 / MSE) in dB, for pixels in [0, 1]; NaN stays NaN."""
    return math.inf if mse == 0 else -10 * math.log10(mse)


def fidelity(clean: Tensor, restored: Tensor, judge: Judge | None = None, seen: Tensor | None = None) -> Row:
    """Return metrics of the difference between `clean` and `restored`, both [N, C, H, W].

    `mse` is per pixel. `psnr` is computed from the mean MSE, `psnr_image` is the mean of the PSNR of each image, in dB.
    `ssim` is the mean structural similarity (Wang et al. 2004), left out for images with a side of fewer than 5
    pixels. With a judge, `perceptual` is the mean of ‖φ(x) - φ(x̂)‖² / ‖φ(x)‖², where φ are its features; `seen` are
    the features of the clean images, if known. The name of the column distinguishes judges that are not shipped.
    """
    errors = (clean - restored).square().flatten(1).mean(1).double()
    # A perfect image would make the mean infinite; 1e-10 is 100 dB.
    image = (10 * torch.log10(1 / errors.clamp_min(1e-10))).mean()
    row: Row = {**mean_ci95(errors, "mse"), "psnr": psnr(float(errors.mean())), "psnr_image": float(image)}
    if min(clean.shape[2:]) >= NARROWEST:
        row["ssim"] = ssim(clean, restored)
    if judge is not None:
        column = "perceptual" if judge.is_shipped else f"perceptual_{judge.digest}"
        row |= mean_ci95(perceptual(judge, clean, restored, seen), column)
    return row


def ssim(clean: Tensor, restored: Tensor) -> float:
    """Return the mean structural similarity (Wang et al. 2004) of images [N, C, H, W] in [0, 1].

    (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)) with c₁ = 0.01², c₂ = 0.03² and moments in a
    Gaussian window around each pixel. σ is 1.5 pixels, or 0.5 for images with a side of fewer than 16 pixels. Images
    are mirrored at the edges.
    """
    sigma = 1.5 if min(clean.shape[2:]) >= 16 else 0.5
    rows, columns = (smoothing(size, sigma, clean.device) for size in clean.shape[2:])
    total = 0.0
    for a, b in zip(clean.split(CHUNK), restored.split(CHUNK), strict=True):
        smooth = rows @ (torch.stack([a, b, a * a, b * b, a * b]) @ columns.T)
        mean_a, mean_b, square_a, square_b, product = smooth
        squares = mean_a.square() + mean_b.square()
        variances = (square_a - mean_a.square()).clamp_min(0) + (square_b - mean_b.square()).clamp_min(0)
        similarity = (2 * mean_a * mean_b + 0.01**2) * (2 * (product - mean_a * mean_b) + 0.03**2)
        total += float((similarity / ((squares + 0.01**2) * (variances + 0.03**2))).mean()) * len(a)
    return total / len(clean)


def smoothing(size: int, sigma: float, device: torch.device) -> Tensor:
    """Return the matrix [size, size] that smooths a line of pixels with a Gaussian window, mirrored at the ends.

    For small windows, products with this matrix are much faster than convolutions of single channels.
    """
    reach = int(3.5 * sigma + 0.5)
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=device) / sigma).square())
    mirrored = nn.functional.pad(torch.eye(size, device=device)[None], (reach, reach), mode="reflect")[0]
    return (mirrored.unfold(1, len(window), 1) @ (window / window.sum())).T


def perceptual(judge: Judge, clean: Tensor, restored: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return ‖φ(x) - φ(x̂)‖² / ‖φ(x)‖² of each pair of images [N], in the judge's features φ."""
    seen = judge.features(clean) if seen is None else seen
    return (seen - judge.features(restored.clamp(0, 1))).square().sum(1) / seen.square().sum(1).clamp_min(1e-12)


EVALUATIONS = (
    Evaluation(
        "reconstruction",
        "reconstruction",
        (Reconstructs,),
        measure,
        (*FIDELITY, ANGLE),
        order=10,
        headline=HEADLINE,
        settings=("judge",),
    ),
)
