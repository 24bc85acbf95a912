"""Clusters that are the classes, clusters that know nothing of them, and measures counted in other ways."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from aectl.data.datasets import Source
from aectl.evaluation import clustering, thread_limit
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.clustering import k_means, matched_share, measure_agreement
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.models.base import Model
from aectl.rng import Rng

SHAPE = (1, 2, 3)


def source(images, labels):
    return Source(images, labels, torch.arange(len(images)), scale=1.0, classes=10)


def blobs(n, seed, spread=0.02):
    """Return images that lie near one of three corners of the cube of pixels, and which: labels 0, 4 and 9."""
    corner = (3 * Rng(seed).fork("corners").uniform(n)).long()
    corners = Rng(0).uniform(3, *SHAPE).round()
    images = corners[corner] + spread * Rng(seed).fork("images").normal(n, *SHAPE)
    return source(images, torch.tensor([0, 4, 9])[corner])


def bench(**others):
    return Benchmark(blobs(200, 0), blobs(300, 1), **others)


class Times(Model):
    """A model whose codes are the pixels, times a factor."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def encode(self, x):
        return self.factor * x.flatten(1)


def test_clusters_that_are_the_classes_agree_with_them():
    around = bench()
    row = measure_agreement(around.held_out.pixels().flatten(1), around.held_out.labels, around)
    assert row == {
        "nmi": 1, "nmi_sd": 0, "ari": 1, "ari_sd": 0, "cluster_accuracy": 100, "cluster_accuracy_sd": 0
    }  # fmt: skip


def test_clusters_of_noise_agree_with_nothing():
    labels = (4 * Rng(0).uniform(2000)).long()
    row = measure_agreement(Rng(1).normal(2000, 5), labels, bench())
    assert row["ari"] == pytest.approx(0, abs=0.005)
    assert row["nmi"] < 0.01
    # Chance would be 25; that the best of all matchings counts makes it a little more.
    assert 25 < row["cluster_accuracy"] < 30
    assert row["ari_sd"] > 0


def test_agreement_is_the_mean_and_spread_of_its_runs_and_of_the_definitions():
    codes, around = Rng(1).normal(300, 2), bench()
    labels = (codes[:, 0] > 0).long() + (codes[:, 1] > 0.5).long()
    found = [k_means(codes, 3, around.rng("k-means", i).seed % 2**32) for i in range(5)]
    information = [normalised_information(labels.numpy(), one) for one in found]
    indices = [adjusted_index(labels.numpy(), one) for one in found]
    row = measure_agreement(codes, labels, around)
    assert row["nmi"] == pytest.approx(np.mean(information))
    assert row["nmi_sd"] == pytest.approx(np.std(information, ddof=1))
    assert row["ari"] == pytest.approx(np.mean(indices))
    assert 0.1 < row["ari"] < 0.9
    assert measure_agreement(codes, labels, around) == row


def normalised_information(a, b):
    """Return I(a; b) divided by the mean of both entropies."""

    def entropy(*parts):
        _, counts = np.unique(np.stack(parts), axis=1, return_counts=True)
        shares = counts / counts.sum()
        return -(shares * np.log(shares)).sum()

    return (entropy(a) + entropy(b) - entropy(a, b)) / ((entropy(a) + entropy(b)) / 2)


def adjusted_index(a, b):
    """Return the adjusted Rand index, by counting pairs of images."""
    together_a, together_b = a[:, None] == a, b[:, None] == b
    pairs = ~np.eye(len(a), dtype=bool)
    agreed = (together_a & together_b)[pairs].sum()
    first, second = together_a[pairs].sum(), together_b[pairs].sum()
    chance = first * second / pairs.sum()
    return (agreed - chance) / ((first + second) / 2 - chance)


@pytest.mark.parametrize("kinds", [3, 4, 5])
def test_the_best_matching_is_the_best_of_all(kinds):
    rng = Rng(kinds)
    a, b = (4 * rng.uniform(60)).long().numpy(), (kinds * rng.uniform(60)).long().numpy()
    names = range(max(4, kinds))
    best = max((np.array(p)[b] == a).sum() for p in itertools.permutations(names))
    assert matched_share(a, b) == pytest.approx(best / 60)


def test_the_squared_error_of_k_means_is_the_least():
    x = Rng(0).normal(9, 1)
    found = k_means(x, 2, 0)
    ordered = x[:, 0].sort().values.double()
    # On a line clusters are cut at one point: all of them can be tried.
    costs = [
        sum(float((part - part.mean()).square().sum()) for part in (ordered[:i], ordered[i:])) for i in range(1, 9)
    ]
    error = sum(float((x[found == k].double() - x[found == k].double().mean()).square().sum()) for k in (0, 1))
    assert error == pytest.approx(min(costs), rel=1e-6)


def test_there_are_as_many_clusters_as_classes_are_present():
    rows = clustering.measure(Subject(Times(), bench()))
    assert list(rows) == ["model", "PCA-6", "raw pixels"]
    assert {row["cluster_accuracy"] for row in rows.values()} == {100}


def test_codes_are_in_their_own_scale():
    # Noise on one pixel outweighs everything once it is large enough.
    loud = torch.ones(6)
    loud[2] = 1000.0
    around = Benchmark(blobs(200, 0, spread=0.1), blobs(300, 1, spread=0.1))
    rows = clustering.measure(Subject(Times(loud), around))
    assert rows["raw pixels"]["ari"] > 0.9
    assert rows["model"]["ari"] < 0.9


def test_images_without_a_label_are_left_out():
    known = bench()
    images = torch.cat([Rng(7).uniform(100, *SHAPE), known.held_out.images])
    labels = torch.cat([torch.full((100,), -1), known.held_out.labels])
    rows = clustering.measure(Subject(Times(), replace(known, held_out=source(images, labels))))
    assert {row["ari"] for row in rows.values()} == {1}


def test_codes_that_are_all_alike_are_one_cluster():
    row = clustering.measure(Subject(Times(0.0), bench()))["model"]
    assert (row["nmi"], row["ari"]) == (0, 0)
    largest = bench().held_out.labels.bincount().max() / 300
    assert row["cluster_accuracy"] == pytest.approx(100 * float(largest))


def test_what_has_no_clusters_says_why():
    around = bench()
    with pytest.raises(Unmeasured, match="codes are NaN"):
        clustering.measure(Subject(Times(math.nan), around))
    for labels, why in ((torch.full((300,), -1), "no labels"), (torch.ones(300).long(), "of one class")):
        unlike = replace(around, held_out=replace(around.held_out, labels=labels))
        with pytest.raises(Unmeasured, match=why):
            clustering.measure(Subject(Times(), unlike))


def test_baselines_are_clustered_once_for_each_seed(tmp_path):
    subject = Subject(Times(), bench(cache=Cache(tmp_path)))
    first = clustering.measure(subject)
    (tmp_path / "clusters-pca-6-seed-0.json").write_text(json.dumps({"ari": 7.0}))
    assert clustering.measure(subject) == first | {"PCA-6": {"ari": 7.0}}
    assert clustering.measure(replace(subject, bench=replace(subject.bench, seed=1)))["PCA-6"]["ari"] == 1


@pytest.mark.parametrize(("size", "threads"), [(1000, 1), (2 * thread_limit.SMALL, 2)])
def test_small_problems_have_one_thread(size, threads):
    with threadpool_limits(2), thread_limit.threads_for(size):
        assert {pool["num_threads"] for pool in threadpool_info()} == {threads}
