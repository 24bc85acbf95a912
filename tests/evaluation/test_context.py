"""What a model is measured on, and what several tables need of it."""

from dataclasses import replace

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject, Unmeasured, apply, digest, mean_ci95
from aectl.models.base import Model
from aectl.rng import Rng


def images(n=20, seed=0, classes=3):
    labels = torch.arange(n) % classes
    return Source(Rng(seed).uniform(n, 1, 8, 8), labels, torch.arange(n), scale=1.0, classes=classes)


class Everything(Model):
    """Codes of two rows, halved images, and samples twice as wide as pixels may be."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def encode(self, x):
        return (self.weight * x)[:, 0, :2].double()

    def reconstruct(self, x):
        return self.weight * x

    def sample(self, n, *, rng, y=None, temperature=1.0):
        return 4 * self.weight * rng.uniform(n, 1, 8, 8) - 0.5


def test_data_that_differ_in_one_pixel_label_order_or_scale_have_other_digests():
    one, altered = images(), images()
    altered.images[3, 0, 2, 2] += 0.01
    others = (
        altered,
        replace(one, labels=one.labels.roll(1)),
        one.take(torch.arange(20).flip(0)),
        replace(one, scale=1 / 16),
        replace(one, images=one.images.double()),
        replace(one, images=one.images.view(20, 1, 4, 16)),
        one.take(torch.arange(19)),
    )
    names = {digest(source, one) for source in (one, *others)} | {digest(one)}
    assert len(names) == 9
    assert digest(images(), one) == digest(one, one)
    # Where they come from is no matter, nor how they lie in memory.
    turned = replace(one, index=one.index + 5, images=one.images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2))
    assert digest(turned) == digest(one)


def test_inliers_are_of_the_classes_trained_on():
    bench = Benchmark(images(), images(), {"other": images(5)}, excluded=[1])
    assert set(bench.inliers.labels.tolist()) == {0, 2}
    assert set(bench.all_outliers["excluded classes"].labels.tolist()) == {1}
    assert list(bench.all_outliers) == ["other", "excluded classes"]
    plain = Benchmark(images(), images())
    assert len(plain.inliers) == 20
    assert list(plain.all_outliers) == []


def test_the_interval_of_a_mean():
    row = mean_ci95(torch.tensor([0.0, 1.0, 2.0, 3.0]), "x")
    assert row["x"] == 1.5
    assert row["x_ci95"] == pytest.approx(1.96 * (5 / 3) ** 0.5 / 2)
    assert mean_ci95(torch.ones(1), "x") == {"x": 1.0, "x_ci95": 0.0}


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng, covered = Rng(0), 0
    for _ in range(500):
        row = mean_ci95(rng.uniform(100), "x")
        covered += abs(row["x"] - 0.5) <= row["x_ci95"]
    assert 0.95 - 4 * 0.0098 < covered / 500 < 0.95 + 4 * 0.0098


def test_all_images_are_seen_in_their_order_also_where_they_are_many():
    many = images(2300)
    subject = Subject(Everything(), Benchmark(images(1100, seed=1), many))
    assert torch.equal(subject.codes, many.images[:, 0, :2].flatten(1) / 2)
    assert subject.codes.dtype == torch.float32
    assert subject.train_codes.shape == (1100, 16)
    assert torch.equal(subject.reconstructed, many.images / 2)
    assert torch.equal(apply(lambda x: x.flatten(1).sum(1), many.images), many.images.flatten(1).sum(1))
    assert not any(
        found.requires_grad for found in (subject.codes, subject.reconstructed, subject.drawn["model"].images)
    )


def test_samples_are_as_many_as_held_out_images_cut_and_the_same_each_time():
    around = Benchmark(images(), images(2300))
    first = Subject(Everything(), around).drawn["model"].images
    assert first.shape == (2300, 1, 8, 8)
    assert (first.min(), first.max()) == (0, 1)
    assert torch.equal(first, Subject(Everything(), around).drawn["model"].images)
    assert not torch.equal(first, Subject(Everything(), replace(around, seed=1)).drawn["model"].images)
    # The second thousand is no repetition of the first.
    assert not torch.equal(first[:1000], first[1000:2000])


def test_nearest_training_images_are_found_for_the_samples():
    subject = Subject(Everything(), Benchmark(images(50), images(30)))
    drawn = subject.drawn["model"]
    expected = torch.cdist(drawn.images.flatten(1), subject.bench.train.images.flatten(1)).min(1)
    assert torch.equal(drawn.nearest[1], expected.indices)
    assert torch.allclose(drawn.nearest[0], expected.values, atol=1e-5)


def test_random_numbers_depend_on_the_seed_and_on_their_names_alone():
    bench = Benchmark(images(), images())
    first = bench.rng("a", 1).uniform(3)
    bench.rng("b").uniform(100)
    assert torch.equal(bench.rng("a", 1).uniform(3), first)
    for other in (bench.rng("a", 2), bench.rng("b", 1), replace(bench, seed=1).rng("a", 1)):
        assert not torch.equal(other.uniform(3), first)


def test_features_need_a_judge():
    with pytest.raises(Unmeasured, match="no judge was given"):
        _ = Subject(Everything(), Benchmark(images(), images(), cache=Cache())).drawn["model"].seen
