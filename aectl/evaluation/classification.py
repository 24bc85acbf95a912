"""Accuracy of a classifier, compared with logistic regression on raw pixels."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from aectl.evaluation.context import Row, Rows, Subject, Unmeasured, apply, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.probes import known_class_positions, linear_accuracy
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Classifies

ACCURACY = Metric("accuracy", "images classified correctly", "higher", "%")
METRICS = (ACCURACY, Metric("error", "images classified wrongly", "lower", "%", detail=True))
HEADLINE = Headline("classification", ACCURACY, (("logistic regression",),), rank=1)


def measure(subject: Subject) -> Rows:
    """Return accuracy and error on held-out images, in percent: the model's and logistic regression's on raw pixels.

    Only images whose class occurs among the training images count. Raises Unmeasured if there are none, or if all
    training images have the same class.
    """
    bench = subject.bench
    held_out = bench.held_out.take(known_class_positions(bench))
    logits = apply(cast("Classifies", subject.model).classify, held_out.pixels())
    if bool(logits.isnan().any()):
        raise Unmeasured("some of its logits are NaN")
    found = logits.argmax(1)
    rows: Rows = {"model": accuracy(found, held_out.labels), "logistic regression": linear_accuracy(bench)}
    return {name: row | error(row) for name, row in rows.items()}


def accuracy(found: Tensor, labels: Tensor) -> Row:
    """Return the percentage of images whose predicted class [N] equals the label [N]."""
    return {**mean_ci95(100 * (found == labels).float(), "accuracy")}


def error(row: Row) -> Row:
    """Return the percentage of wrongly classified images, 100 - accuracy."""
    return {"error": 100 - float(row["accuracy"]), "error_ci95": row["accuracy_ci95"]}


EVALUATIONS = (
    Evaluation("classification", "classification", (Classifies,), measure, METRICS, order=130, headline=HEADLINE),
)
