"""Agreement of the classes with clusters that k-means finds among the codes, without labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from statistics import mean, stdev

import numpy as np
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.codes import check_finite, code_baselines, slug
from aectl.evaluation.context import Benchmark, Row, Rows, Subject
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.probes import labelled_positions
from aectl.evaluation.thread_limit import threads_for
from aectl.metric import Metric
from aectl.models.base import Encodes

SEEDS = 5
"""Runs of k-means; the spread is their standard deviation."""
STARTS = 3
"""Starting points of a run; the one with the lowest squared error counts."""


METRICS = (
    Metric("nmi", "normalised mutual information of clusters and classes, 1 for equal partitions", "higher"),
    Metric("ari", "adjusted Rand index of clusters and classes, 0 by chance", "higher"),
    Metric("cluster_accuracy", "images in the cluster that is matched with their class", "higher", "%", detail=True),
)


def measure(subject: Subject) -> Rows:
    """Return how well k-means on held-out codes agrees with the classes: codes of the model, of PCA, and raw pixels.

    k is the number of classes present, and codes are not rescaled. Each number is a mean over 5 seeds with its standard
    deviation. Raises Unmeasured unless there are labels of two classes and all codes are finite.
    """
    bench = subject.bench
    known = labelled_positions(bench.held_out)
    labels = bench.held_out.labels[known]
    rows = {"model": measure_agreement(check_finite(subject.codes)[known], labels, bench)}
    for name, encode in code_baselines(subject).items():

        def compute(encode: Callable[[Source], Tensor] = encode) -> Row:
            return measure_agreement(encode(bench.held_out)[known], labels, bench)

        rows[name] = bench.cache.numbers(f"clusters-{slug(name)}-seed-{bench.seed}", compute)
    return rows


def measure_agreement(codes: Tensor, labels: Tensor, bench: Benchmark) -> Row:
    """Return the agreement of clusters of codes [N, code] with labels [N], over seeds of k-means.

    `nmi` is the mutual information divided by the mean of the two entropies. `ari` is the adjusted Rand index (Hubert &
    Arabie 1985). `cluster_accuracy` is the percentage of images in the cluster that the best one-to-one matching of
    clusters with classes assigns to their class.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    classes = labels.cpu().numpy()
    scores: dict[str, list[float]] = {"nmi": [], "ari": [], "cluster_accuracy": []}
    for i in range(SEEDS):
        found = k_means(codes, len(np.unique(classes)), bench.rng("k-means", i).seed % 2**32)
        scores["nmi"].append(float(normalized_mutual_info_score(classes, found)))
        scores["ari"].append(float(adjusted_rand_score(classes, found)))
        scores["cluster_accuracy"].append(100 * matched_share(classes, found))
    row: Row = {}
    for name, values in scores.items():
        row |= {name: mean(values), f"{name}_sd": stdev(values)}
    return row


def k_means(codes: Tensor, k: int, seed: int) -> np.ndarray:
    """Return the cluster [N] of each code by Lloyd's algorithm from k-means++ (Arthur & Vassilvitskii 2007).

    Codes with fewer than k different values give fewer clusters; scikit-learn's warning about it is suppressed.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with threads_for(codes.numel()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, n_init=STARTS, random_state=seed).fit_predict(codes.cpu().numpy())


def matched_share(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Return the share of images in the cluster that is matched with their class, one to one (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(classes, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(classes))


EVALUATIONS = (Evaluation("clusters", "clusters of the codes", (Encodes,), measure, METRICS, order=60),)
