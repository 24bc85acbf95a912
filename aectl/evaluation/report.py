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
from aectl.models.base import Classifies, Encodes, Energy, Normalises, Reconstructs, Samples, Scores, Walks


@dataclass(frozen=True)
class Evaluation:
    """A table by name and title: the abilities that a model needs for it, and how it is made."""

    name: str
    title: str
    abilities: tuple[type | UnionType, ...]
    measure: Callable[[Subject], Rows]


EVALUATIONS = (
    Evaluation("reconstruction", "reconstruction", (Reconstructs,), reconstruction.measure),
    Evaluation("denoising", "denoising, under the run's own noise", (Reconstructs,), denoising.measure),
    Evaluation("noises", "denoising, PSNR in dB under each noise", (Reconstructs,), denoising.matrix),
    Evaluation("codes", "codes", (Encodes,), codes.measure),
    Evaluation("probes", "classes read off the codes, accuracy in %", (Encodes,), probes.measure),
    Evaluation("clusters", "clusters of the codes", (Encodes,), clusters.measure),
    Evaluation("likelihood", "likelihood, nats per image", (Scores | Normalises,), likelihood.measure),
    Evaluation("anomalies", "detection of images of another kind", (Reconstructs | Scores | Energy,), anomaly.measure),
    Evaluation("samples", "samples, by their pixels", (Samples,), generation.measure),
    Evaluation("distances", "samples, in the judge's features", (Samples,), generation.distances),
    Evaluation("chains", "Markov chains", (Walks,), chains.measure),
    Evaluation("classes", "classes of samples, in %", (Samples,), generation.classes),
    Evaluation("classification", "classification", (Classifies,), classification.measure),
)


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
