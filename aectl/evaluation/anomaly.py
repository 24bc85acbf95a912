"""Detection of out-of-distribution images by the scores that a model gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.context import Benchmark, Row, Rows, Subject, Unmeasured, apply, digest
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Energy, Normalises, Reconstructs, Scores

SAMPLES = 10
"""Importance samples of a likelihood: enough to rank images, in a hundredth of the time of the likelihood table."""
COMPONENTS = 64
"""Principal components of the linear detector, but at most a quarter of the number of pixels."""

AUROC = Metric("auroc_*", "area under the ROC curve, .5 by chance", "higher")
METRICS = (AUROC, Metric("ap_*", "average precision", "higher", detail=True))
"""Each set of outliers has its columns, see `name_columns`."""
HEADLINE = Headline(
    "anomalies",
    AUROC,
    (("PCA-*", "mean intensity"),),
    rank=8,
    about="detection of {}: AUROC",
)

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Scores of inliers [N] and outliers [M] by the name of the set of outliers; higher scores mean more unusual images.

Inliers are the held-out images of the classes that the model was trained on. Those of excluded classes are a set of
outliers.
"""


def measure(subject: Subject) -> Rows:
    """Return the area under the ROC curve and the average precision of each detector for each set of outliers.

    The model's rows are its reconstruction error, its negative log-likelihood and its energy, as far as it has them.
    The baselines are PCA's reconstruction error, the mean intensity of the image, and chance, whose average precision
    is the share of outliers. Raises Unmeasured if there are no outliers or no inliers, and if scores are NaN.
    """
    bench = subject.bench
    if not bench.all_outliers:
        raise Unmeasured("there are no outliers to compare with")
    if not len(bench.inliers):
        raise Unmeasured("there are no held-out images of the classes trained on")
    rows = {row: detection_row(pairs) for row, pairs in scores_by_ability(subject).items()}
    pixels = math.prod(bench.held_out.shape)
    code = min(COMPONENTS, max(1, pixels // 4), bench.pca.rank)
    rows[f"PCA-{code}"] = baseline_row(bench, f"pca-{code}", lambda x: errors(x, bench.pca.reconstruct(x, code)))
    rows["mean intensity"] = baseline_row(bench, "intensity", lambda x: x.flatten(1).mean(1))
    rows["chance"] = {}
    for name, source in bench.all_outliers.items():
        share = len(source) / (len(source) + len(bench.inliers))
        rows["chance"] |= {f"auroc_{name}": 0.5, f"ap_{name}": share}
    return rows


def scores_by_ability(subject: Subject) -> dict[str, Pairs]:
    """Return the model's scores by the name of their row."""
    model, found = subject.model, {}
    if isinstance(model, Reconstructs):
        found["model, error"] = scores(subject)
    # Normalising an energy takes minutes and does not change the order of images.
    if isinstance(model, Scores) and not isinstance(model, Normalises):
        found["model, likelihood"] = likelihoods(subject)
    if isinstance(model, Energy):
        found["model, energy"] = energies(subject)
    return found


def scores(subject: Subject) -> Pairs:
    """Return the mean squared reconstruction errors per pixel, of images without noise; the model must reconstruct."""
    bench, model = subject.bench, cast("Reconstructs", subject.model)
    inside = errors(bench.held_out.pixels(), subject.reconstructed)[~bench.is_excluded]
    return {
        name: (inside, errors(x := source.pixels(), apply(model.reconstruct, x)))
        for name, source in bench.all_outliers.items()
    }


def likelihoods(subject: Subject) -> Pairs:
    """Return the negative log-likelihoods, in nats; the model must have likelihoods.

    Simple images can be more likely than the images the model was trained on (Nalisnick et al. 2019).
    """
    model, rng = cast("Scores", subject.model), subject.bench.rng("anomalies")

    @torch.no_grad()
    def score(source: Source) -> Tensor:
        return -apply(lambda x: model.log_prob(x, rng=rng, samples=SAMPLES).value, source.pixels())

    return pairs_of(subject.bench, score)


def energies(subject: Subject) -> Pairs:
    """Return the energies in nats, of binary draws for a model of binary pixels; the model must have energies."""
    model, rng = cast("Energy", subject.model), subject.bench.rng("anomalies", "energy")

    def score(source: Source) -> Tensor:
        x = source.pixels()
        return apply(model.energy, model.observe(x, rng) if isinstance(model, Normalises) else x)

    return pairs_of(subject.bench, score)


def pairs_of(bench: Benchmark, score: Callable[[Source], Tensor]) -> Pairs:
    """Return the scores of the inliers with those of each set of outliers; raises Unmeasured if some are NaN."""
    inside = score(bench.inliers)
    pairs = {name: (inside, score(source)) for name, source in bench.all_outliers.items()}
    if any(bool(scores.isnan().any()) for pair in pairs.values() for scores in pair):
        raise Unmeasured("some of its scores are NaN")
    return pairs


def errors(x: Tensor, restored: Tensor) -> Tensor:
    """Return the mean squared error per pixel of each image [N]."""
    return (x - restored).square().flatten(1).mean(1)


def baseline_row(bench: Benchmark, detector: str, score: Callable[[Tensor], Tensor]) -> Row:
    """Return the row of a detector that does not depend on the model.

    The cache identifies a set of outliers by its images, not by its name.
    """
    row: Row = {}
    for name, source in bench.all_outliers.items():

        def compute(source: Source = source) -> Row:
            return measure_detection(score(bench.inliers.pixels()), score(source.pixels()))

        found = bench.cache.numbers(f"anomalies-{detector}-{digest(bench.inliers, source)}", compute)
        row |= name_columns(found, name)
    return row


def detection_row(pairs: Pairs) -> Row:
    """Return a row with the columns of each set of outliers."""
    row: Row = {}
    for name, (inside, outside) in pairs.items():
        row |= name_columns(measure_detection(inside, outside), name)
    return row


def name_columns(found: Row, name: str) -> Row:
    """Return `auroc`, `auroc_ci95` and `ap` under names that end in the set of outliers."""
    return {f"auroc_{name}": found["auroc"], f"auroc_{name}_ci95": found["auroc_ci95"], f"ap_{name}": found["ap"]}


def measure_detection(inside: Tensor, outside: Tensor) -> Row:
    """Return how well scores separate inliers [N] from outliers [M], which should have the higher scores.

    `auroc` is the probability that an outlier has a higher score than an inlier, with ties counting half. Its interval
    has the variance of DeLong et al. (1988), computed from ranks as in Sun & Xu (2014). `ap` is the average precision,
    in [0, 1]. Raises Unmeasured if scores are NaN.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import average_precision_score

    if inside.isnan().any() or outside.isnan().any():
        raise Unmeasured("some scores are NaN")
    n, m = len(inside), len(outside)
    # Only the order matters, and ranks are finite even if scores are infinite.
    ranks = torch.from_numpy(rankdata(torch.cat([inside, outside]).cpu().numpy()))
    among_own = [torch.from_numpy(rankdata(part.cpu().numpy())) for part in (inside, outside)]
    above = (ranks[n:] - among_own[1]) / n  # for each outlier, the share of inliers below it
    below = 1 - (ranks[:n] - among_own[0]) / m
    variance = sum(float(part.var()) / len(part) for part in (above, below) if len(part) > 1)
    labels = torch.cat([torch.zeros(n), torch.ones(m)]).numpy()
    return {
        "auroc": float(above.mean()),
        "auroc_ci95": 1.96 * variance**0.5,
        "ap": float(average_precision_score(labels, ranks.numpy())),
    }


EVALUATIONS = (
    Evaluation(
        "anomalies",
        "detection of out-of-distribution images",
        (Reconstructs | Scores | Energy,),
        measure,
        METRICS,
        order=80,
        headline=HEADLINE,
        settings=("outliers",),
    ),
)
