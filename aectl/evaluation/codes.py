"""What codes look like: how many units are active or dead, how sparse a code is; and the codes to compare them with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.context import Row, Rows, Subject, Unmeasured, apply, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.metric import Metric
from aectl.models.base import Encodes, HasPosterior

ACTIVE = 1e-3
"""A unit is active on an image where |h| exceeds this."""
INFORMED = 0.01
"""A latent is active where the variance over images of its posterior mean exceeds this (Burda et al. 2016)."""
METRICS = (
    Metric("active_share", "share of units active on an image"),
    Metric("active_units", "units active on an image"),
    Metric("dead_units", "units never active"),
    Metric("active_latents", f"units whose posterior mean varies over images with a variance above {INFORMED}"),
    Metric("units", "size of the code"),
    Metric("hoyer", "Hoyer sparsity, 0 for equal units, 1 for a single active one"),
)
RAW = "raw pixels"
"""The row of the images themselves, as long codes."""


def measure(subject: Subject) -> Rows:
    """Return the table of held-out codes, the model's and PCA's of the same size: `sparsity` and `hoyer`.

    For a model with a posterior also `active_latents`, the number of units whose posterior mean has a variance over
    images above 0.01 (Burda et al. 2016). Raises Unmeasured if some codes are not numbers.
    """
    bench = subject.bench
    code = checked(subject.codes)
    rows: Rows = {"model": {**sparsity(code), **hoyer(code)}}
    if isinstance(model := subject.model, HasPosterior):
        means = apply(lambda x: model.posterior(x)[0], bench.held_out.pixels())
        rows["model"]["active_latents"] = active_latents(means)
    (name, encode), _ = baselines(subject).items()

    def compute() -> Row:
        found = encode(bench.held_out)
        return {**sparsity(found), **hoyer(found)}

    return rows | {name: bench.cache.numbers(f"codes-{slug(name)}", compute)}


def sparsity(codes: Tensor) -> dict[str, float]:
    """Return, of codes [N, code]: the share and mean number of active units per image, and the units never active."""
    active = codes.abs() > ACTIVE
    return {
        "active_share": float(active.float().mean()),
        "active_units": float(active.float().sum(1).mean()),
        "dead_units": float((~active.any(0)).sum()),
        "units": float(codes.shape[1]),
    }


def hoyer(codes: Tensor) -> dict[str, float]:
    """Return the mean over images of (√n - ‖h‖₁/‖h‖₂) / (√n - 1), n the size of the code (Hoyer 2004).

    It is 0 where all units are equally strong and 1 where a single one is active. Codes of nothing but zeros have no
    such number and do not count; if there are no others, or the code is a single unit, the row is empty.
    """
    codes = codes[codes.any(1)].double()
    if not len(codes) or codes.shape[1] == 1:
        return {}
    root = codes.shape[1] ** 0.5
    # Scaled by the largest, the squares of small codes do not vanish.
    codes = codes / codes.abs().amax(1, keepdim=True)
    return mean_ci95((root - codes.norm(p=1, dim=1) / codes.norm(dim=1)) / (root - 1), "hoyer")


def active_latents(means: Tensor) -> float:
    """Return how many columns of posterior means [N, code] vary over images with more than 0.01 of variance."""
    return float((means.double().var(0, correction=0) > INFORMED).sum())


def checked(codes: Tensor) -> Tensor:
    """Return `codes`; raises Unmeasured unless all of them are finite."""
    if not codes.isfinite().all():
        raise Unmeasured("some codes are not numbers")
    return codes


def baselines(subject: Subject) -> dict[str, Callable[[Source], Tensor]]:
    """Return what to compare a model's codes with, maps from images to [N, size] by the name of their row.

    These are as many principal components as the code has units, at most the rank of the training images, and the
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
    """Return the name of a row as part of a name in the cache."""
    return name.lower().replace(" ", "-")


EVALUATIONS = (Evaluation("codes", "codes", (Encodes,), measure, METRICS, order=40),)
