"""Detection against cases whose answer is known."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from aectl.data.datasets import Source
from aectl.data.noise import Masking
from aectl.evaluation import anomaly
from aectl.evaluation.anomaly import measure_detection
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.models.autoencoder import Autoencoder
from aectl.models.base import Model
from aectl.models.gan import GAN
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.models.vae import VAE
from aectl.rng import Rng

SHAPE = (1, 4, 4)
dense = (partial(DenseEncoder, widths=[8]), partial(DenseDecoder, widths=[8]))


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def dark(n, seed):
    return source(0.4 * Rng(seed).uniform(n, *SHAPE))


def subject(model, cache=None, **outliers):
    data = Benchmark(dark(200, 0), dark(100, 1), outliers, cache=cache or Cache())
    return Subject(model.eval().requires_grad_(False), data)


def autoencoder(**others):
    torch.manual_seed(0)
    return Autoencoder(SHAPE, 3, *dense, **others)


def test_scores_that_do_not_overlap_are_told_apart():
    found = measure_detection(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 4.0]))
    assert (found["auroc"], found["ap"]) == (1, 1)
    assert measure_detection(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]))["auroc"] == 0


def test_equal_scores_are_not_told_apart():
    same = Rng(0).normal(200)
    assert measure_detection(same, same)["auroc"] == 0.5
    assert measure_detection(torch.zeros(30), torch.zeros(10)) == {"auroc": 0.5, "auroc_ci95": 0, "ap": 0.25}


def test_a_case_counted_by_hand():
    # Of six pairs, three are in order and one is tied; precision is 1/2 at the first outlier and 2/4 at the second.
    found = measure_detection(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 3.0]))
    assert found["auroc"] == pytest.approx((3 + 0.5) / 6)
    assert found["ap"] == pytest.approx(0.5 * (1 / 2) + 0.5 * (2 / 4))


def test_the_area_is_scikit_learns_also_with_ties_and_infinite_scores():
    inside, outside = (Rng(0).normal(50) * 2).round(), (Rng(1).normal(70) * 2 + 1).round()
    labels = torch.cat([torch.zeros(50), torch.ones(70)])
    found = measure_detection(inside, outside)["auroc"]
    assert found == pytest.approx(roc_auc_score(labels, torch.cat([inside, outside])))
    assert measure_detection(inside, torch.full((5,), math.inf))["auroc"] == 1


def test_the_interval_covers_the_true_area_as_often_as_it_says():
    true = float(norm.cdf(1 / math.sqrt(2)))  # of N(0, 1) against N(1, 1)
    rng, covered = Rng(0), 0
    for _ in range(400):
        found = measure_detection(rng.normal(60), rng.normal(40) + 1)
        covered += abs(found["auroc"] - true) <= found["auroc_ci95"]
    assert 0.95 - 4 * 0.0109 < covered / 400 < 0.95 + 4 * 0.0109


def test_scores_that_are_not_numbers_have_no_table():
    with pytest.raises(Unmeasured, match="scores are NaN"):
        measure_detection(torch.tensor([0.0, math.nan]), torch.tensor([1.0]))


def test_without_outliers_there_is_no_table():
    with pytest.raises(Unmeasured, match="no outliers"):
        anomaly.measure(subject(autoencoder()))


def test_excluded_classes_are_outliers_and_not_ordinary():
    labels = torch.arange(100) % 4
    held_out = replace(dark(100, 1), labels=labels, classes=4)
    data = Benchmark(dark(200, 0), held_out, excluded=[3])
    tested = Subject(autoencoder().eval(), data)
    ((name, (inside, outside)),) = anomaly.scores(tested).items()
    all_errors = anomaly.errors(held_out.images, tested.reconstructed)
    assert name == "excluded classes"
    assert torch.equal(inside, all_errors[labels != 3])
    assert torch.allclose(outside, all_errors[labels == 3])
    assert anomaly.measure(tested)["chance"]["ap_excluded classes"] == 0.25
    nothing_else = Benchmark(dark(200, 0), held_out.take((labels == 3).nonzero().squeeze(1)), excluded=[3])
    with pytest.raises(Unmeasured, match="classes trained on"):
        anomaly.measure(Subject(autoencoder().eval(), nothing_else))


def test_bright_images_among_dark_ones_are_found_by_their_intensity():
    bright = source(0.6 + 0.4 * Rng(5).uniform(50, *SHAPE))
    rows = anomaly.measure(subject(autoencoder(), bright=bright, same=dark(50, 7)))
    assert list(rows) == ["model, error", "PCA-4", "mean intensity", "chance"]
    assert rows["mean intensity"]["auroc_bright"] == 1
    assert rows["mean intensity"]["ap_bright"] == pytest.approx(1)
    row = rows["mean intensity"]
    assert abs(row["auroc_same"] - 0.5) < 2 * row["auroc_same_ci95"]
    assert rows["PCA-4"]["auroc_bright"] > 0.95
    assert rows["chance"] == {
        name: pytest.approx(1 / 2 if name.startswith("auroc") else 1 / 3)
        for name in ("auroc_bright", "ap_bright", "auroc_same", "ap_same")
    }


def test_errors_are_those_of_clean_images_also_of_a_denoiser():
    tested = subject(autoencoder(noise=Masking(1.0)), other=dark(5, 3))
    inside, outside = anomaly.scores(tested)["other"]
    for found, images in ((inside, tested.bench.held_out), (outside, tested.bench.outliers["other"])):
        x = images.pixels()
        assert torch.allclose(found, (x - tested.model.reconstruct(x)).square().mean((1, 2, 3)))


class Brightness(Model):
    """An energy that is the sum of the pixels."""

    def energy(self, x):
        return x.flatten(1).sum(1)


def test_each_ability_has_its_row():
    bright = source(0.6 + 0.4 * Rng(5).uniform(50, *SHAPE))
    torch.manual_seed(0)
    baselines = ["PCA-4", "mean intensity", "chance"]
    vae = VAE(SHAPE, 2, *dense, likelihood="gaussian")
    assert list(anomaly.measure(subject(vae, bright=bright))) == ["model, error", "model, likelihood", *baselines]
    energy = anomaly.measure(subject(Brightness(), bright=bright))
    assert list(energy) == ["model, energy", *baselines]
    assert energy["model, energy"]["auroc_bright"] == 1
    assert anomaly.scores_by_ability(subject(GAN(SHAPE, 2, dense[1], dense[0]), bright=bright)) == {}


def test_unlikely_images_are_the_outliers():
    far = source(torch.ones(20, *SHAPE))
    rows = anomaly.measure(subject(VAE(SHAPE, 2, *dense, likelihood="gaussian", std=0.3), far=far))
    assert rows["model, likelihood"]["auroc_far"] > 0.95


def test_baselines_are_kept_for_the_images_and_not_for_their_name(tmp_path):
    def kept(outliers, name="a"):
        anomaly.measure(subject(autoencoder(), cache=Cache(tmp_path), **{name: outliers}))
        return len(list(tmp_path.glob("anomalies-*.json")))

    assert kept(dark(20, 3)) == 2
    assert kept(dark(20, 3), "b") == 2
    assert kept(dark(20, 4)) == 4
