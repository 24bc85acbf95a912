"""How likely held-out images are under a model: negative log-likelihoods, beside models that are integrated exactly.

Numbers of binary and of grey pixels are of different things, and a bound is not the value: each row says what it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aectl.evaluation.pca import PCA
from aectl.evaluation.subject import CHUNK, Benchmark, Row, Rows, Subject, mean_ci95
from aectl.models.base import Encodes, Score, Scores

SMALLEST = 1e-9
"""A variance below this is rounding: a normal density with it could be made as large as one likes."""


def measure(subject: Subject) -> Rows:
    """Return the table of negative log-likelihoods of `nll_images` held-out images, in nats per image.

    `kind` says whether the number is exact, a bound, or no likelihood at all; `binarisation` whether it is of pixels
    drawn as 0 or 1 anew ("dynamic"), of such as are 0 or 1 already ("fixed"), or a density of grey ones ("none").
    """
    bench, k = subject.bench, subject.nll_samples
    x = images(bench, subject.nll_images)
    score = log_prob(subject.model, x, bench, k)
    how: Row = {"binarisation": binarisation(score, x), "images": len(x)}
    taken: Row = {} if score.kind == "exact" else {"samples": k}
    rows: Rows = {"model": {**nll(score), **how, **taken}}
    if score.kind == "bound" and k > 1:
        rows["model, ELBO"] = {**nll(log_prob(subject.model, x, bench, 1)), **how, "samples": 1}
    if score.of == "grey pixels" and score.kind != "no likelihood":
        others = normal_baselines(subject, x)
    else:
        # On grey pixels the expected likelihood of their binary draws is the cross-entropy: no likelihood of them.
        kind = score.kind if score.kind == "no likelihood" else "exact"
        others = {"independent Bernoulli": Score(bernoulli(x, bench), kind, score.of)}
    return rows | {name: {**nll(other), **how} for name, other in others.items()}


def images(bench: Benchmark, count: int) -> Tensor:
    """Return `count` held-out images [N, C, H, W], the same for every model, or all if they are fewer."""
    order = bench.rng("likelihood", "images").permutation(len(bench.held_out))
    return bench.held_out.take(order[:count].sort().values).pixels()


@torch.no_grad()
def log_prob(model: Scores, x: Tensor, bench: Benchmark, samples: int) -> Score:
    """Return the model's score of all images; the binary draws of them do not depend on `samples`."""
    parts = [
        model.log_prob(chunk, rng=bench.rng("likelihood", i), samples=samples) for i, chunk in enumerate(x.split(CHUNK))
    ]
    return parts[0]._replace(value=torch.cat([part.value for part in parts]))


def nll(score: Score) -> Row:
    """Return the mean of -log p(x) with its interval, and the score's kind."""
    return {**mean_ci95(-score.value, "nll"), "kind": score.kind}


def binarisation(score: Score, x: Tensor) -> str:
    """Return how the pixels that a score is of became binary: dynamic, fixed or none."""
    if score.of != "binary pixels":
        return "none"
    return "fixed" if bool(((x == 0) | (x == 1)).all()) else "dynamic"


def bernoulli(x: Tensor, bench: Benchmark) -> Tensor:
    """Return log p(x) [N] of independent pixels, averaged over the binary draws of each image in closed form.

    E[log p] = Σ x log p + (1 - x) log(1 - p), with p the pixel means of n training images by Laplace's rule,
    (n mean + 1) / (n + 2), which keeps them off 0 and 1.
    """
    n = len(bench.train)
    p = (n * bench.pca.mean + 1) / (n + 2)
    x = x.flatten(1).double()
    return x @ p.log() + (1 - x) @ (1 - p).log()


def normal_baselines(subject: Subject, x: Tensor) -> dict[str, Score]:
    """Return the scores of grey pixels under an independent normal, and probabilistic PCA of the model's code size.

    The independent normal has one variance for all pixels: of a pixel that never varies, a variance of its own
    would make the density infinite, or whatever a floor below it lets it be.
    """
    sizes = {"independent normal": 0}
    if isinstance(subject.model, Encodes):
        sizes[f"probabilistic PCA-{subject.codes.shape[1]}"] = subject.codes.shape[1]
    found = {name: ppca(x, subject.bench.pca, code) for name, code in sizes.items()}
    return {name: Score(value, "exact", "grey pixels") for name, value in found.items() if value is not None}


def ppca(x: Tensor, pca: PCA, code: int) -> Tensor | None:
    """Return log N(x; mean, C) [N] with C = U Λ Uᵀ + σ² (I - U Uᵀ), U the first `code` components, Λ their variances.

    σ² is the mean of the other variances, which is the maximum of the likelihood (Tipping & Bishop 1999); where there
    is nothing left to explain, None.
    """
    kept, left = pca.variances[:code], pca.variances[code:]
    if not len(left) or left.mean() < SMALLEST:
        return None
    centred = x.flatten(1).double() - pca.mean
    inside = (centred @ pca.components[:, :code]).square()
    distance = (inside / kept).sum(1) + (centred.square().sum(1) - inside.sum(1)) / left.mean()
    log_determinant = kept.log().sum() + len(left) * left.mean().log()
    return -0.5 * (distance + log_determinant + centred.shape[1] * math.log(2 * math.pi))
