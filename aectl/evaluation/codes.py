"""Statistics of codes: active and dead units, sparsity; and the baselines that codes are compared with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.context import Row, Rows, Subject, Unmeasured, apply, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.metric import Metric
from aectl.models.base import Encodes, HasPosterior

ACTIVE = 1e-3
"""A unit is active on an image if |h| exceeds this."""
INFORMED = 0.01
"""A latent is active if the variance over images of its posterior mean exceeds this (Burda et al. 2016)."""
METRICS = (
    Metric("active_share", "share of units active on an image"),
    Metric("active_units", "units active on an image"),
    Metric("dead_units", "units never active"),
    Metric("active_latents", f"units whose posterior mean varies over images with a variance above {INFORMED}"),
    Metric("units", "size of the code"),
    Metric("hoyer", "Hoyer sparsity, 0 for equal units, 1 for a single active one"),
)
RAW = "raw pixels"
"""Name of the row in which the pixels of an image are its code."""


def measure(subject: Subject) -> Rows:
    """Return `sparsity` and `hoyer` of the held-out codes of the model and of PCA of the same size.

    A model with a posterior also has `active_latents`. Raises Unmeasured if some codes are NaN or infinite.
    """
    bench = subject.bench
    code = check_finite(subject.codes)
    rows: Rows = {"model": {**sparsity(code), **hoyer(code)}}
    if isinstance(model := subject.model, HasPosterior):
        means = apply(lambda x: model.posterior(x)[0], bench.held_out.pixels())
        rows["model"]["active_latents"] = active_latents(means)
    (name, encode), _ = code_baselines(subject).items()

    def compute() -> Row:
        found = encode(bench.held_out)
        return {**sparsity(found), **hoyer(found)}

    return rows | {name: bench.cache.numbers(f"codes-{slug(name)}", compute)}


def sparsity(codes: Tensor) -> dict[str, float]:
    """Return the share and mean number of active units per image of codes [N, code], and the number never active."""
    active = codes.abs() > ACTIVE
    return {
        "active_share": float(active.float().mean()),
        "active_units": float(active.float().sum(1).mean()),
        "dead_units": float((~active.any(0)).sum()),
        "units": float(codes.shape[1]),
    }


def hoyer(codes: Tensor) -> dict[str, float]:
    """Return the mean over images of (√n - ‖h‖₁/‖h‖₂) / (√n - 1), n the size of the code (Hoyer 2004).

    It is 0 if all units are equally strong and 1 if a single unit is active. Codes that are zero do not count. Returns
    an empty row if there are no other codes, or if the code has a single unit.
    """
    codes = codes[codes.any(1)].double()
    if not len(codes) or codes.shape[1] == 1:
        return {}
    root = codes.shape[1] ** 0.5
    # Without scaling, the squares of small codes underflow.
    codes = codes / codes.abs().amax(1, keepdim=True)
    return mean_ci95((root - codes.norm(p=1, dim=1) / codes.norm(dim=1)) / (root - 1), "hoyer")


def active_latents(means: Tensor) -> float:
    """Return the number of columns of posterior means [N, code] whose variance over images exceeds 0.01."""
    return float((means.double().var(0, correction=0) > INFORMED).sum())


def check_finite(codes: Tensor) -> Tensor:
    """Return `codes`; raises Unmeasured if some are NaN or infinite."""
    if not codes.isfinite().all():
        raise Unmeasured("some codes are NaN or infinite")
    return codes


def code_baselines(subject: Subject) -> dict[str, Callable[[Source], Tensor]]:
    """Return the baselines of a model's codes: maps from images to [N, size], by the name of their row.

    They are as many principal components as the code has units, at most the rank of the training images, and the raw
    pixels.
    """
    bench = subject.bench
    size = min(subject.codes.shape[1], bench.pca.rank)

    def principal(source: Source) -> Tensor:
        return apply(lambda x: bench.pca.encode(x, size), source.pixels())

    return {f"PCA-{size}": principal, RAW: pixels} if size else {RAW: pixels}


def pixels(source: Source) -> Tensor:
    """Return the images of a source as vectors [N, pixels] in [0, 1]."""
    return source.pixels().flatten(1)


def slug(name: str) -> str:
    """Return a row's name as a part of a name in the cache."""
    return name.lower().replace(" ", "-")


EVALUATIONS = (Evaluation("codes", "codes", (Encodes,), measure, METRICS, order=40),)
