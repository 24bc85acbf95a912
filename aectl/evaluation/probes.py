"""Probes: accuracy of simple classifiers that are trained on codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from aectl.data.datasets import Source, draw_balanced
from aectl.evaluation.codes import RAW, check_finite, code_baselines, pixels, slug
from aectl.evaluation.context import Benchmark, Row, Rows, Subject, Unmeasured, mean_ci95
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.nearest_neighbours import Neighbours
from aectl.evaluation.thread_limit import threads_for
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Encodes

FEW = (10, 100, 1000)
"""Numbers of labelled images that a linear probe is trained on, in addition to all of them."""
DRAWS = 5
"""Random sets of so many labelled images; the spread is their standard deviation."""
NEIGHBOURS = 5
"""Number of nearest training images that vote."""
ITERATIONS = 100
"""Maximum number of iterations of L-BFGS."""
SVC_WIDEST = 32
"""Maximum size of a code for a support vector machine: for 128 units it takes 17 times as long as logistic
regression."""
CONSTANT = 1e-5
"""A unit is constant if its standard deviation is below this share of the largest magnitude in the code."""

LINEAR = Metric("linear", "accuracy of a linear classifier on codes", "higher", "%")
METRICS = (
    LINEAR,
    Metric("svc", "accuracy of a linear support vector machine on codes", "higher", "%", detail=True),
    Metric("knn", "accuracy of nearest neighbours among codes", "higher", "%"),
    Metric("linear_*", "accuracy of a linear classifier from this number of labelled images", "higher", "%"),
)
HEADLINE = Headline("linear probe", LINEAR, (("PCA-*", RAW),), rank=7)


@dataclass(frozen=True)
class Task:
    """Codes [N, code] and classes [N] for training and test."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def measure(subject: Subject) -> Rows:
    """Return the accuracies in percent on held-out codes of the model, codes of PCA of that size, and raw pixels.

    `linear` is logistic regression on the codes of all labelled training images. `svc` is a linear support vector
    machine, for codes of at most 32 units. `knn` is a vote of the 5 nearest codes. `linear_10`, `linear_100` and
    `linear_1000` are logistic regression on so many codes, equally many of each class: mean and standard deviation over
    5 random sets, the same sets in all rows. Columns with more images than there are are left out. Held-out images of
    classes that do not occur in the training images do not count.

    Units are standardised for `linear` and `svc`. In the other columns all units are divided by the same number:
    distances are those of the code, and with few labels, units that hardly vary are not amplified.

    Raises Unmeasured unless there are labels of two classes and all codes are finite.
    """
    bench = subject.bench
    check_labels(bench)
    task = task_of(bench, check_finite(subject.train_codes), check_finite(subject.codes))
    rows = {"model": linear_probe(task) | svc_probe(task) | knn_probe(task) | few_label_probes(task, bench)}
    for name, encode in code_baselines(subject).items():
        rows[name] = baseline(bench, name, encode)
    return rows


def linear_accuracy(bench: Benchmark) -> Row:
    """Return the `accuracy`, in percent, of logistic regression on raw pixels; raises Unmeasured as `measure` does."""
    check_labels(bench)
    row = linear_baseline(bench, RAW, lambda: task_of(bench, pixels(bench.train), pixels(bench.held_out)))
    return {key.replace("linear", "accuracy"): value for key, value in row.items()}


def baseline(bench: Benchmark, name: str, encode: Callable[[Source], Tensor]) -> Row:
    """Return the row of codes that do not depend on the model."""

    @cache
    def task() -> Task:
        return task_of(bench, encode(bench.train), encode(bench.held_out))

    others = f"probe-others-{slug(name)}-seed-{bench.seed}"
    return (
        linear_baseline(bench, name, task)
        | bench.cache.numbers(f"probe-svc-{slug(name)}", lambda: svc_probe(task()))
        | bench.cache.numbers(others, lambda: knn_probe(task()) | few_label_probes(task(), bench))
    )


def linear_baseline(bench: Benchmark, name: str, task: Callable[[], Task]) -> Row:
    """Return the part of a baseline's row that does not depend on the seed."""
    return bench.cache.numbers(f"probe-linear-{slug(name)}", lambda: linear_probe(task()))


def labelled_positions(source: Source) -> Tensor:
    """Return the positions of the labelled images; raises Unmeasured unless they have at least two classes."""
    known = (source.labels >= 0).nonzero().squeeze(1)
    if not len(known):
        raise Unmeasured("the images have no labels")
    if len(source.labels[known].unique()) < 2:
        raise Unmeasured("all labelled images are of one class")
    return known


def known_class_positions(bench: Benchmark) -> Tensor:
    """Return the positions of held-out images of classes in the training images; raises Unmeasured if none."""
    known = bench.train.labels[labelled_positions(bench.train)].unique()
    found = torch.isin(bench.held_out.labels, known).nonzero().squeeze(1)
    if not len(found):
        raise Unmeasured("no held-out image has a label that a training image has")
    return found


def check_labels(bench: Benchmark) -> None:
    """Raise Unmeasured unless there are labelled images for training and test."""
    known_class_positions(bench)


def task_of(bench: Benchmark, train: Tensor, held_out: Tensor) -> Task:
    """Return the task of reading classes off the codes of all training and all held-out images."""
    known, test = labelled_positions(bench.train), known_class_positions(bench)
    return Task(train[known], bench.train.labels[known], held_out[test], bench.held_out.labels[test])


def standardise(task: Task) -> Task:
    """Return the task with mean 0 and standard deviation 1 of each unit over training images; constant units are 0."""
    deviation, mean = torch.std_mean(task.train, 0, correction=0)
    varies = deviation > CONSTANT * task.train.abs().max()
    scale = torch.where(varies, 1 / deviation, 0)
    return Task((task.train - mean) * scale, task.train_labels, (task.test - mean) * scale, task.test_labels)


def rescale(task: Task) -> Task:
    """Return the task with mean 0 of each unit over training images, scaled to a mean variance of 1."""
    variance, mean = torch.var_mean(task.train, 0, correction=0)
    deviation = variance.mean().sqrt()
    scale = 1 / deviation if deviation > 0 else 1.0
    return Task((task.train - mean) * scale, task.train_labels, (task.test - mean) * scale, task.test_labels)


def linear_probe(task: Task) -> Row:
    """Return the accuracy `linear`, in percent, of logistic regression on all training codes, standardised."""
    return {**mean_ci95(100 * are_correct(standardise(task)).float(), "linear")}


def svc_probe(task: Task) -> Row:
    """Return the accuracy `svc`, in percent, of a linear support vector machine on all training codes, standardised.

    One class against the others, squared hinge loss, C = 1. Empty for codes wider than `SVC_WIDEST`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    if task.train.shape[1] > SVC_WIDEST:
        return {}
    task = standardise(task)
    with threads_for(task.train.numel()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LinearSVC(dual=False).fit(task.train.cpu().numpy(), task.train_labels.cpu())
    found = torch.from_numpy(fitted.predict(task.test.cpu().numpy()))
    return {**mean_ci95(100 * (found == task.test_labels.cpu()).float(), "svc")}


def few_label_probes(task: Task, bench: Benchmark) -> Row:
    """Return the accuracies `linear_10` … in percent, of logistic regression on few training codes."""
    row: Row = {}
    task = rescale(task)
    for n in FEW:
        if n > len(task.train):
            break
        drawn = [draw_balanced(task.train_labels, n, bench.rng("few labels", n, i)) for i in range(DRAWS)]
        parts = [Task(task.train[i], task.train_labels[i], task.test, task.test_labels) for i in drawn]
        found = torch.stack([100 * are_correct(part).double().mean() for part in parts])
        row |= {f"linear_{n}": float(found.mean()), f"linear_{n}_sd": float(found.std())}
    return row


def are_correct(task: Task) -> Tensor:
    """Return whether logistic regression classifies each test code correctly, [N].

    It is multinomial, with the penalty ½‖W‖² on the summed cross-entropy (C = 1) and at most 100 iterations of L-BFGS.
    For wide codes this stops before the optimum, which is part of the protocol: stopping early regularises, and more
    iterations on raw pixels cost accuracy. scikit-learn's warning about it is suppressed.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with threads_for(task.train.numel()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=1.0, max_iter=ITERATIONS).fit(task.train.cpu().numpy(), task.train_labels.cpu())
    return torch.from_numpy(found.predict(task.test.cpu().numpy())) == task.test_labels.cpu()


def knn_probe(task: Task) -> Row:
    """Return the accuracy `knn`, in percent, of a vote of the 5 training codes nearest in Euclidean distance."""
    task = rescale(task)
    _, nearest = Neighbours(task.train).search(task.test, min(NEIGHBOURS, len(task.train)))
    found = task.train_labels[nearest].mode(1).values
    return {**mean_ci95(100 * (found == task.test_labels).float(), "knn")}


EVALUATIONS = (
    Evaluation(
        "probes",
        "classes read off the codes, accuracy in %",
        (Encodes,),
        measure,
        METRICS,
        order=50,
        headline=HEADLINE,
    ),
)
