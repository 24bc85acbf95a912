"""The report on a model: one table for each thing it can do, with its baselines in the same table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import UnionType

from aectl.evaluation import (
    anomaly,
    chains,
    classification,
    clusters,
    codes,
    denoising,
    generation,
    likelihood,
    probes,
    reconstruction,
)
from aectl.evaluation.subject import Rows, Subject, Unmeasured
from aectl.evaluation.verdict import Headline
from aectl.models.base import Classifies, Encodes, Energy, Normalises, Reconstructs, Samples, Scores, Walks


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
    Evaluation("clusters", "clusters of the codes", (Encodes,), clusters.measure),
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
    Evaluation("samples", "samples, by their pixels", (Samples,), generation.measure, generation.HEADLINE),
    Evaluation(
        "distances",
        "samples, in the judge's features",
        (Samples,),
        generation.distances,
        generation.HEADLINE_IN_FEATURES,
    ),
    Evaluation("chains", "Markov chains", (Walks,), chains.measure),
    Evaluation("classes", "classes of samples, in %", (Samples,), generation.classes),
    Evaluation("classification", "classification", (Classifies,), classification.measure, classification.HEADLINE),
)

HEADLINES = {one.name: one.headline for one in EVALUATIONS if one.headline is not None}
"""What decides in a table, by its name."""


@dataclass
class Report:
    """Tables by name, and for each that the model's abilities allow but the data do not, why it is missing."""

    tables: dict[str, Rows] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def report(subject: Subject, only: Iterable[str] = (), told: Callable[[str], None] = lambda name: None) -> Report:
    """Return the tables that the model's abilities allow, or those of them in `only`; `told` hears what is next."""
    result, chosen = Report(), tuple(only)
    for evaluation in EVALUATIONS:
        able = all(isinstance(subject.model, ability) for ability in evaluation.abilities)
        if not able or (chosen and evaluation.name not in chosen):
            continue
        told(evaluation.name)
        try:
            result.tables[evaluation.name] = evaluation.measure(subject)
        except Unmeasured as reason:
            result.missing[evaluation.name] = str(reason)
    return result
