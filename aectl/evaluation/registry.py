"""The report on a model: one table for each thing it can do, with its baselines in the same table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from types import UnionType

from aectl.evaluation import (
    anomaly,
    classification,
    clustering,
    codes,
    denoising,
    likelihood,
    markov_chains,
    probes,
    reconstruction,
    samples,
)
from aectl.evaluation.context import Rows, Subject, Unmeasured
from aectl.evaluation.verdict import Headline
from aectl.models.base import Classifies, Encodes, Energy, Model, Normalises, Reconstructs, Samples, Scores, Walks


@dataclass(frozen=True)
class Evaluation:
    """A table by name and title: the abilities that a model needs for it, how it is made, and what decides in it."""

    name: str
    title: str
    abilities: tuple[type | UnionType, ...]
    measure: Callable[[Subject], Rows]
    headline: Headline | None = None


EVALUATIONS = (
    Evaluation("reconstruction", "reconstruction", (Reconstructs,), reconstruction.measure, reconstruction.HEADLINE),
    Evaluation(
        "denoising", "denoising, under the run's own noise", (Reconstructs,), denoising.measure, denoising.HEADLINE
    ),
    Evaluation("noises", "denoising, PSNR in dB under each noise", (Reconstructs,), denoising.matrix),
    Evaluation("codes", "codes", (Encodes,), codes.measure),
    Evaluation("probes", "classes read off the codes, accuracy in %", (Encodes,), probes.measure, probes.HEADLINE),
    Evaluation("clusters", "clusters of the codes", (Encodes,), clustering.measure),
    Evaluation(
        "likelihood", "likelihood, nats per image", (Scores | Normalises,), likelihood.measure, likelihood.HEADLINE
    ),
    Evaluation(
        "anomalies",
        "detection of images of another kind",
        (Reconstructs | Scores | Energy,),
        anomaly.measure,
        anomaly.HEADLINE,
    ),
    Evaluation("samples", "samples, by their pixels", (Samples,), samples.measure, samples.HEADLINE),
    Evaluation(
        "distances",
        "samples, in the judge's features",
        (Samples,),
        samples.distances,
        samples.HEADLINE_IN_FEATURES,
    ),
    Evaluation("chains", "Markov chains", (Walks,), markov_chains.measure),
    Evaluation("classes", "classes of samples, in %", (Samples,), samples.classes),
    Evaluation("classification", "classification", (Classifies,), classification.measure, classification.HEADLINE),
)

HEADLINES = {one.name: one.headline for one in EVALUATIONS if one.headline is not None}
"""What decides in a table, by its name."""
SETTINGS = {"likelihood": ("nll_images", "nll_samples"), "anomalies": ("outliers",)}
"""Keys of `aectl eval` that change a table's numbers, in addition to `seed`."""
LACKING: dict[type | UnionType, str] = {
    Reconstructs: "does not reconstruct images",
    Encodes: "makes no codes",
    Samples: "does not sample",
    Classifies: "does not classify",
    Walks: "has no Markov chain",
    Scores | Normalises: "has no likelihood",
    Reconstructs | Scores | Energy: "gives images no score: no reconstruction, likelihood or energy",
}
"""What a model without an ability lacks."""


@dataclass
class Report:
    """Tables by name, the seconds each took, and for each that the data do not allow, why it is missing."""

    tables: dict[str, Rows] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)


def lacking(model: Model, table: str) -> str:
    """Return which ability a model lacks for a table; the empty text if it lacks none."""
    abilities = next(one.abilities for one in EVALUATIONS if one.name == table)
    return next((LACKING[ability] for ability in abilities if not isinstance(model, ability)), "")


def report(subject: Subject, only: Iterable[str] = (), told: Callable[[str], None] = lambda name: None) -> Report:
    """Return the tables that the model's abilities allow, or those of them in `only`; `told` hears what is next."""
    result, chosen = Report(), tuple(only)
    for evaluation in EVALUATIONS:
        if (chosen and evaluation.name not in chosen) or lacking(subject.model, evaluation.name):
            continue
        told(evaluation.name)
        start = perf_counter()
        try:
            result.tables[evaluation.name] = evaluation.measure(subject)
        except Unmeasured as reason:
            result.missing[evaluation.name] = str(reason)
        result.seconds[evaluation.name] = perf_counter() - start
    return result
