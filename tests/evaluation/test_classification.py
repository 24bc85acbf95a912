"""Accuracies of classifiers whose answers are known."""

import math
from dataclasses import replace

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation import classification
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.models.base import Model
from aectl.rng import Rng

SHAPE = (1, 2, 2)


def source(n, seed, labels=None):
    """Return images of four classes, in each of which another pixel is the brightest."""
    truth = torch.arange(n) % 4
    images = 0.3 * Rng(seed).uniform(n, 4)
    images[torch.arange(n), truth] += 0.6
    return Source(images.view(n, *SHAPE), truth if labels is None else labels, torch.arange(n), 1.0, 4)


class Brightest(Model):
    """A classifier that knows the classes, but takes those in `mistaken` for class 0."""

    def __init__(self, *mistaken):
        super().__init__()
        self.mistaken = list(mistaken)

    def classify(self, x):
        logits = x.flatten(1).clone()
        logits[:, self.mistaken] = -1
        return logits


def test_accuracies_are_shares_of_images_classified_rightly():
    around = Benchmark(source(100, 0), source(200, 1))
    rows = classification.measure(Subject(Brightest(), around))
    perfect = {"accuracy": 100, "accuracy_ci95": 0, "error": 0, "error_ci95": 0}
    assert rows == {"model": perfect, "logistic regression": perfect}
    row = classification.measure(Subject(Brightest(2), around))["model"]
    assert (row["accuracy"], row["error"]) == (75, 25)
    assert row["accuracy_ci95"] == row["error_ci95"] == pytest.approx(1.96 * 100 * math.sqrt(0.75 * 0.25 / 199))


def test_both_are_tested_on_the_classes_that_were_trained_on():
    train = source(100, 0)
    without = train.take((train.labels != 3).nonzero().squeeze(1))
    rows = classification.measure(Subject(Brightest(3), Benchmark(without, source(200, 1), excluded=[3])))
    assert [row["accuracy"] for row in rows.values()] == [100, 100]


def test_images_without_a_label_do_not_count():
    labels = torch.where(torch.arange(200) < 100, torch.arange(200) % 4, -1)
    around = Benchmark(source(100, 0), source(200, 1, labels))
    assert classification.measure(Subject(Brightest(2), around))["model"]["accuracy"] == 75
    nameless = replace(around, held_out=source(200, 1, torch.full((200,), -1)))
    with pytest.raises(Unmeasured, match="no held-out image has a label"):
        classification.measure(Subject(Brightest(), nameless))
