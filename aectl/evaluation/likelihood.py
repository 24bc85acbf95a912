"""Negative log-likelihood of held-out images, compared with baselines whose likelihood is exact.

Likelihoods of binary and of grey pixels are different quantities, and a bound is not the value: each row states what
its number is. A model that has energies is normalised in each way that it supports, with a row for each.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from aectl.data.encoding import check_count
from aectl.evaluation.context import CHUNK, Benchmark, Row, Rows, Subject, apply, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.pca import PCA
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import AbilityError, Encodes, Normalises, Partition, Score, Scores
from aectl.runs.metrics_json import Row as AnyRow

NLL = Metric("nll", "negative log-likelihood per image", "lower", "nats")
METRICS = (
    NLL,
    Metric("log_z", "log of the constant that normalises the energies", unit="nats"),
    Metric(
        "kind",
        "whether nll is exact, a bound that it lies below, or an estimate (AIS too low, reverse AIS too high)",
        # A bound states a likelihood that is reached at least.
        alike=("exact", "bound"),
    ),
    Metric(
        "binarisation",
        "pixels drawn as 0 or 1 anew (dynamic), 0 or 1 already (fixed), cut at a half (threshold), or grey (none)",
    ),
    Metric("images", "images that were measured", detail=True, condition=True),
    Metric("samples", "draws per image; with more, the bound is tighter"),
)

SMALLEST = 1e-9
"""A variance below this is a rounding error, with which a normal density would be arbitrarily large."""


def kind_of(row: AnyRow) -> str:
    """Return what kind of number `nll` is; the empty text if it is exact."""
    kind = str(row.get("kind") or "exact")
    return {"exact": "", "no likelihood": "cross-entropy of grey pixels"}.get(kind, kind)


HEADLINE = Headline("likelihood", NLL, (("*",),), rank=3, about="NLL", note=kind_of)


def measure(subject: Subject) -> Rows:
    """Return the negative log-likelihoods of `nll_images` held-out images, in nats per image.

    `kind` is exact, bound, the name of an estimate, or "no likelihood". `binarisation` is "dynamic" if the pixels are
    binary draws, "fixed" if they are 0 or 1 already, "threshold" if they are cut at one half, and "none" for a density
    of grey pixels.
    """
    if isinstance(subject.model, Normalises):
        return measure_energies(subject)
    model, bench, k = cast("Scores", subject.model), subject.bench, subject.nll_samples
    x = choose_images(bench, subject.nll_images)
    score = log_prob(model, x, bench, k)
    how: Row = {"binarisation": binarisation(score, x), "images": len(x)}
    taken: Row = {} if score.kind == "exact" else {"samples": k}
    rows: Rows = {"model": {**nll(score), **how, **taken}}
    if score.kind == "bound" and k > 1:
        rows["model, ELBO"] = {**nll(log_prob(model, x, bench, 1)), **how, "samples": 1}
    if score.of == "grey pixels" and score.kind != "no likelihood":
        others = normal_baselines(subject, x)
    else:
        # For grey pixels, the expected log-likelihood of binary draws is the cross-entropy, which is not a likelihood.
        kind = score.kind if score.kind == "no likelihood" else "exact"
        others = {"independent Bernoulli": Score(bernoulli(x, bench.pca.mean, len(bench.train)), kind, score.of)}
    return rows | {name: {**nll(other), **how} for name, other in others.items()}


@torch.no_grad()
def measure_energies(subject: Subject) -> Rows:
    """Return a row for each way of normalising the model's energies, the most reliable one called "model".

    nll = mean energy + log Z, with the interval ci² = ci² over images + ci² of log Z.
    """
    model, bench = cast("Normalises", subject.model), subject.bench
    x = choose_images(bench, subject.nll_images)
    seen = model.observe(x, bench.rng("likelihood", "observe"))
    energies = apply(model.energy, seen).double()
    ways = check_partition(model.log_partition(rng=bench.rng("likelihood", "partition")))
    binary = ways[0].of == "binary pixels"
    how: Row = {"binarisation": binarisation_of_draws(seen, x) if binary else "none", "images": len(x)}
    rows: Rows = {
        f"model, {way.kind}" if i else "model": {**normalised_nll(energies, way), **how} for i, way in enumerate(ways)
    }
    if not binary:
        others = normal_baselines(subject, x)
    elif how["binarisation"] == "threshold":
        train = bench.train.pixels() >= 0.5
        others = {
            "independent Bernoulli": Score(bernoulli(seen, train.double().flatten(1).mean(0), len(train)), "exact")
        }
    else:
        others = {"independent Bernoulli": Score(bernoulli(x, bench.pca.mean, len(bench.train)), "exact")}
    return rows | {name: {**nll(other), **how} for name, other in others.items()}


def check_partition(found: Any) -> list[Partition]:
    """Return the result of `log_partition`; raises AbilityError unless it is a list of finite constants."""
    is_right = isinstance(found, list) and found and all(isinstance(way, Partition) for way in found)
    if not is_right:
        raise AbilityError(f"model: log_partition returned {found!r:.60}, not a list of aectl.models.base.Partition")
    for way in found:
        numbers = [way.value, way.ci95]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers) or way.ci95 < 0:
            raise AbilityError(f"model: log_partition returned log Z = {way.value!r:.30} ± {way.ci95!r:.30}")
    return found


def normalised_nll(energies: Tensor, way: Partition) -> Row:
    """Return the negative log-likelihood and log Z, each with its interval, and its kind."""
    row = mean_ci95(energies + way.value, "nll")
    row["nll_ci95"] = math.hypot(row["nll_ci95"], way.ci95)
    return {**row, "log_z": way.value, "log_z_ci95": way.ci95, "kind": way.kind}


def binarisation_of_draws(seen: Tensor, x: Tensor) -> str:
    """Return how the binary pixels `seen` were made from x: fixed (they are x), threshold or dynamic."""
    if torch.equal(seen, x):
        return "fixed"
    return "threshold" if torch.equal(seen, (x >= 0.5).to(x)) else "dynamic"


def choose_images(bench: Benchmark, count: int) -> Tensor:
    """Return `count` held-out images [N, C, H, W], the same for every model, or all if there are fewer."""
    order = bench.rng("likelihood", "images").permutation(len(bench.held_out))
    return bench.held_out.take(order[:count].sort().values).pixels()


@torch.no_grad()
def log_prob(model: Scores, x: Tensor, bench: Benchmark, samples: int) -> Score:
    """Return the model's score of all images; their binary draws do not depend on `samples`."""
    parts = [
        model.log_prob(chunk, rng=bench.rng("likelihood", i), samples=samples) for i, chunk in enumerate(x.split(CHUNK))
    ]
    sizes = [len(chunk) for chunk in x.split(CHUNK)]
    values = [check_count(part.value, n, "log_prob") for part, n in zip(parts, sizes, strict=True)]
    return parts[0]._replace(value=torch.cat(values))


def nll(score: Score) -> Row:
    """Return the mean of -log p(x) with its interval, and its kind."""
    return {**mean_ci95(-score.value, "nll"), "kind": score.kind}


def binarisation(score: Score, x: Tensor) -> str:
    """Return how the pixels that a score refers to were made binary: dynamic, fixed or none."""
    if score.of != "binary pixels":
        return "none"
    return "fixed" if bool(((x == 0) | (x == 1)).all()) else "dynamic"


def bernoulli(x: Tensor, mean: Tensor, n: int) -> Tensor:
    """Return log p(x) [N] of independent pixels, averaged over the binary draws of each image in closed form.

    E[log p] = Σ x log p + (1 - x) log(1 - p). By Laplace's rule, p = (n mean + 1) / (n + 2) with the means of pixels
    over n training images; it is never 0 or 1.
    """
    p = (n * mean + 1) / (n + 2)
    x = x.flatten(1).double()
    return x @ p.log() + (1 - x) @ (1 - p).log()


def normal_baselines(subject: Subject, x: Tensor) -> dict[str, Score]:
    """Return the scores of grey pixels under an independent normal and under probabilistic PCA of the code's size.

    The independent normal has one variance for all pixels: with separate variances, constant pixels would make the
    density infinite.
    """
    sizes = {"independent normal": 0}
    if isinstance(subject.model, Encodes):
        sizes[f"probabilistic PCA-{subject.codes.shape[1]}"] = subject.codes.shape[1]
    found = {name: ppca(x, subject.bench.pca, code) for name, code in sizes.items()}
    return {name: Score(value, "exact", "grey pixels") for name, value in found.items() if value is not None}


def ppca(x: Tensor, pca: PCA, code: int) -> Tensor | None:
    """Return log N(x; mean, C) [N] with C = U Λ Uᵀ + σ² (I - U Uᵀ), U the first `code` components, Λ their variances.

    σ² is the mean of the other variances, which maximises the likelihood (Tipping & Bishop 1999). Returns None if the
    other variances are zero.
    """
    kept, left = pca.variances[:code], pca.variances[code:]
    if not len(left) or left.mean() < SMALLEST:
        return None
    centred = x.flatten(1).double() - pca.mean
    inside = (centred @ pca.components[:, :code]).square()
    distance = (inside / kept).sum(1) + (centred.square().sum(1) - inside.sum(1)) / left.mean()
    log_determinant = kept.log().sum() + len(left) * left.mean().log()
    return -0.5 * (distance + log_determinant + centred.shape[1] * math.log(2 * math.pi))


EVALUATIONS = (
    Evaluation(
        "likelihood",
        "likelihood, nats per image",
        (Scores | Normalises,),
        measure,
        METRICS,
        order=70,
        headline=HEADLINE,
        settings=("nll_images", "nll_samples"),
    ),
)
