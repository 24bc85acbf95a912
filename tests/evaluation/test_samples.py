"""Distances between sets of images, against closed forms and slow computations, and the tables made of them."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from aectl.data.datasets import Source
from aectl.evaluation import samples
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.evaluation.distances import GROUPS, cubic, estimate, frechet, frechet_of_moments, groups, pair_means
from aectl.evaluation.judge import Judge
from aectl.evaluation.nearest_neighbours import nearest
from aectl.evaluation.precision_recall import precision_recall, realism
from aectl.evaluation.sample_baselines import sample_baselines
from aectl.models.base import Model
from aectl.models.classifier import Classifier
from aectl.models.gan import energy_distance
from aectl.rng import Rng

SHAPE, CLASSES = (1, 8, 8), 4


def normal(n, seed, width=5, shift=0.0, scale=1.0):
    return Rng(seed).fork("vectors").normal(n, width) * scale + shift


def quadrants(n, seed, classes=CLASSES):
    """Return n noisy images with one bright quarter each, and which quarter it is."""
    labels = (Rng(seed).fork("labels").uniform(n) * classes).long()
    images = 0.3 * Rng(seed).fork("images").uniform(n, *SHAPE)
    for label in range(classes):
        row, column = divmod(label, 2)
        images[labels == label, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.7
    return images, labels


def source(n, seed, labels=None):
    images, truth = quadrants(n, seed)
    return Source(images, truth if labels is None else labels, torch.arange(n), scale=1.0, classes=CLASSES)


def bench(**settings):
    return Benchmark(source(1000, 0), source(400, 1), **settings)


class Draws(Model):
    """A model whose samples are the images that it is given, from the first on."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def sample(self, n, *, rng, y=None, temperature=1.0):
        return self.images[:n]


class DrawsByClass(Draws):
    """A model that samples images of the classes that it is asked for, but shows class 0 as class 1."""

    conditional = True

    def sample(self, n, *, rng, y=None, temperature=1.0):
        images, labels = quadrants(4000, 3)
        y = labels[:n] if y is None else y
        # The i-th image of a class for the i-th request of it.
        order = [(y[:i] == y[i]).sum() for i in range(n)]
        return torch.stack([images[labels == max(c, 1)][k] for c, k in zip(y.tolist(), order, strict=True)])


class Codes(Model):
    """A model whose codes are the pixels; without a prior."""

    def encode(self, x):
        return x.flatten(1)

    def decode(self, z):
        return z.view(-1, *SHAPE)


class CodesAndPrior(Codes, Draws):
    """The same with a prior, which makes the images that it is given."""


def judge():
    """Return a judge whose features are the pixels, and whose classes are the brightest quarters."""
    model = Classifier(SHAPE, CLASSES, 64, lambda shape, code: nn.Flatten()).requires_grad_(False)
    for label in range(CLASSES):
        row, column = divmod(label, 2)
        mask = torch.zeros(8, 8)
        mask[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
        model.head.weight[label] = mask.flatten()
    model.head.bias.zero_()
    return Judge("quarters", model)


def test_the_frechet_distance_of_two_normal_distributions_is_the_closed_form():
    mean, other = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0]]).double()
    spread, wider = torch.tensor([[1.0, 2.0, 0.5], [3.0, 2.0, 1.0]]).double()
    found = frechet_of_moments(mean, spread.square().diag(), other, wider.square().diag())
    assert float(found) == pytest.approx(1 + 4 + 4 + 0.25)


def test_the_frechet_distance_of_covariances_that_do_not_commute():
    from scipy.linalg import sqrtm

    a, b = Rng(0).normal(2, 4, 4).double()
    a, b = a @ a.T, b @ b.T
    zero = torch.zeros(4).double()
    expected = float(a.trace() + b.trace()) - 2 * sqrtm((a @ b).numpy()).trace().real
    assert float(frechet_of_moments(zero, a, zero, b)) == pytest.approx(expected)


def test_the_frechet_distance_of_draws_nears_that_of_their_laws_and_is_zero_for_equal_sets():
    row = frechet(normal(5000, 0), normal(5000, 1, shift=1.0, scale=2.0))
    assert row["frechet"] == pytest.approx(5 + 5, abs=1.5 * row["frechet_ci95"])
    x = normal(300, 0)
    same = frechet(x, x)
    assert same["frechet"] == pytest.approx(0, abs=1e-9)
    assert same["frechet_ci95"] == pytest.approx(0, abs=1e-9)


def test_the_interval_of_a_mean_is_the_one_of_the_textbook():
    parts = groups(normal(2000, 0, width=1).double())
    kept = [torch.cat(parts[:g] + parts[g + 1 :]).mean() for g in range(GROUPS)]
    row = estimate(torch.stack([torch.cat(parts).mean(), *kept]), "mean")
    between = torch.stack([part.mean() for part in parts]).std()
    assert row["mean_ci95"] == pytest.approx(1.96 * float(between) / math.sqrt(GROUPS))
    assert row["mean_ci95"] == pytest.approx(1.96 / math.sqrt(2000), rel=0.4)


def test_intervals_of_frechet_and_kernel_distance_are_as_wide_as_draws_scatter():
    found = []
    for seed in range(40):
        x, y = normal(200, seed), normal(200, 1000 + seed, shift=0.3)
        found.append(frechet(x, y) | estimate(pair_means(x, y, cubic).discrepancy(), "kernel"))
    for name in ("frechet", "kernel"):
        scatter = 1.96 * torch.tensor([row[name] for row in found]).std()
        reported = torch.tensor([row[f"{name}_ci95"] for row in found]).mean()
        assert 0.7 < reported / scatter < 1.5


def test_sets_that_are_sorted_have_the_intervals_of_unsorted_ones():
    x, y = normal(1000, 0), normal(1000, 1)
    ordered = x[x[:, 0].argsort()]
    assert frechet(ordered, y)["frechet_ci95"] < 3 * frechet(x, y)["frechet_ci95"]


def test_pair_means_are_those_of_the_definition_also_without_a_group():
    x, y = normal(61, 0).double(), normal(47, 1).double()
    found = pair_means(x, y, cubic)

    def slow(a, b):
        return torch.stack([(p @ q / 5 + 1) ** 3 for p in a for q in b]).view(len(a), len(b))

    def expected(a, b):
        own, other = slow(a, a), slow(b, b)
        n, m = len(a), len(b)
        within = [(k.sum() - k.trace()) / (s * (s - 1)) for k, s in ((own, n), (other, m))]
        return float(within[0] + within[1] - 2 * slow(a, b).mean())

    assert float(found.discrepancy()[0]) == pytest.approx(expected(x, y))
    without = [torch.cat(groups(part)[:7] + groups(part)[8:]) for part in (x, y)]
    assert float(found.discrepancy()[1 + 7]) == pytest.approx(expected(*without))


def test_pairs_of_held_out_images_are_gone_through_once(tmp_path):
    calls, bench = [], Benchmark(source(60, 0), source(60, 1), cache=Cache(tmp_path))
    y = normal(60, 9)

    def kernel(a, b):
        calls.append(1)
        return cubic(a, b)

    for seed in range(2):
        x = normal(80, seed)
        found = samples.with_held_out(bench, x, y, kernel, "cubic")
        assert all(torch.equal(a, b) for a, b in zip(found, pair_means(x, y, cubic), strict=True))
    among_own = GROUPS * (GROUPS + 1) // 2
    assert len(calls) == 2 * (among_own + GROUPS**2) + among_own


def test_the_kernel_distance_covers_zero_for_one_law_and_not_for_two():
    same = estimate(pair_means(normal(1000, 0), normal(1000, 1), cubic).discrepancy(), "kernel")
    assert abs(same["kernel"]) < same["kernel_ci95"]
    other = estimate(pair_means(normal(1000, 0), normal(1000, 1, shift=0.3), cubic).discrepancy(), "kernel")
    assert other["kernel"] > 2 * other["kernel_ci95"]


def test_the_energy_distance_is_the_one_that_adversarial_networks_are_judged_by():
    x, y = normal(200, 0), normal(150, 1, shift=0.5)
    found = -pair_means(x, y, torch.cdist).discrepancy()[0]
    assert float(found) == pytest.approx(float(energy_distance(x, y)), abs=1e-4)


def test_precision_and_recall_of_disjoint_equal_and_like_sets():
    x = normal(500, 0)
    apart = precision_recall(x, x + 100)
    assert [apart[key] for key in ("precision", "recall", "density", "coverage")] == [0, 0, 0, 0]
    equal = precision_recall(x, x)
    assert [equal[key] for key in ("precision", "recall", "coverage")] == [100, 100, 100]
    alike = precision_recall(x, normal(500, 1))
    assert alike["coverage"] == pytest.approx(100 * (1 - 2**-3), abs=4)
    assert alike["density"] == pytest.approx(1, abs=0.15)


def test_a_dropped_mode_costs_recall_and_not_precision():
    real = torch.cat([normal(500, 0), normal(500, 1, shift=50)])
    row = precision_recall(normal(1000, 2), real)
    assert row["precision"] > 75
    assert row["recall"] == pytest.approx(50, abs=8)
    assert row["coverage"] <= 50
    assert precision_recall(real, normal(1000, 2))["precision"] == pytest.approx(50, abs=8)


def test_precision_and_recall_are_those_of_the_definition():
    x, y = normal(90, 0), normal(120, 1, shift=0.5)
    x_radii, y_radii = (torch.cdist(z, z).sort(1).values[:, 3] for z in (x, y))
    between = torch.cdist(x, y)
    inside = between <= y_radii
    row = precision_recall(x, y)
    assert row["precision"] == pytest.approx(100 * float(inside.any(1).float().mean()))
    assert row["recall"] == pytest.approx(100 * float((between <= x_radii[:, None]).any(0).float().mean()))
    assert row["density"] == pytest.approx(float(inside.float().sum(1).mean()) / 3)
    assert row["coverage"] == pytest.approx(100 * float(inside.any(0).float().mean()))


def test_realism_is_that_of_the_definition():
    x, y = normal(90, 0), normal(121, 1)
    radii = torch.cdist(y, y).sort(1).values[:, 3]
    small = radii <= radii.median()
    expected = (radii[small] / torch.cdist(x, y[small])).amax(1)
    assert torch.allclose(realism(x, y), expected.double(), rtol=1e-4)
    # The more a sample is like the data, the more real it is.
    assert realism(2 * x, y).median() < realism(x, y).median() < realism(0.5 * x, y).median()


def test_the_nearest_image_is_found_and_a_copy_is_at_distance_zero():
    reference = Rng(0).uniform(1200, *SHAPE)
    images = torch.cat([reference[[3, 1100]], reference[[7]] + 0.001])
    distance, position = nearest(images, reference)
    assert position.tolist() == [3, 1100, 7]
    assert distance[:2].tolist() == [0, 0]
    assert float(distance[2]) == pytest.approx(0.001 * 8, rel=1e-3)
    slow = torch.cdist(Rng(1).uniform(600, 64), reference.flatten(1)).min(1)
    distance, position = nearest(Rng(1).uniform(600, *SHAPE), reference)
    assert torch.equal(position, slow.indices)
    assert torch.allclose(distance, slow.values, atol=1e-4)


def test_copies_of_training_images_and_fresh_images_are_told_apart():
    around = bench()
    copied = samples.measure(Subject(Draws(around.train.images), around))["model"]
    assert copied["nearest_train"] == 0
    assert copied["memorised"] == 100
    fresh = samples.measure(Subject(Draws(quadrants(1000, 2)[0]), around))["model"]
    assert fresh["nearest_train"] == pytest.approx(1, abs=0.02)
    assert abs(fresh["memorised"]) <= fresh["memorised_ci95"] < 3
    assert fresh["diversity"] == pytest.approx(1, abs=0.02)
    assert abs(fresh["energy"]) < 2 * fresh["energy_ci95"]


def test_a_model_that_draws_one_image_only_has_no_diversity():
    around = bench(judge=judge())
    subject = Subject(Draws(around.held_out.images[:1].expand(1000, *SHAPE)), around)
    assert samples.measure(subject)["model"]["diversity"] == pytest.approx(0, abs=0.01)
    row = samples.distances(subject)["model"]
    assert row["diversity"] == pytest.approx(0, abs=0.01)
    assert row["modes"] == 1
    assert row["recall"] < 1


def test_tables_have_the_floor_and_the_simple_samplers():
    around = bench(judge=judge())
    subject = Subject(Draws(quadrants(400, 2, classes=2)[0]), around)
    names = ["model", "real training images", "PCA-Gaussian", "GMM-5"]
    pixels, features = samples.measure(subject), samples.distances(subject)
    assert list(pixels) == list(features) == names
    for rows, column in ((pixels, "energy"), (features, "frechet"), (features, "kernel")):
        assert rows["real training images"][column] < 0.1 * rows["model"][column]
    for rows in (pixels, features):
        assert rows["real training images"]["memorised"] == 100
        assert abs(rows["PCA-Gaussian"]["memorised"]) < 3
    # Four clusters are a mixture of normal distributions, and not one of them.
    assert features["GMM-5"]["kernel"] < 0.5 * features["PCA-Gaussian"]["kernel"]
    assert [features[name]["modes"] for name in names] == [2, 4, 4, 4]
    assert features["model"]["class_kl"] == pytest.approx(math.log(2), abs=0.1)
    assert features["real training images"]["class_kl"] == pytest.approx(0, abs=0.02)


def test_samples_of_requested_classes_are_judged_by_their_class():
    rows = samples.distances(Subject(DrawsByClass(None), bench(judge=judge())))
    assert rows["model"]["class_accuracy"] == 75
    assert 0 < rows["model"]["class_accuracy_ci95"] < 10
    assert all("class_accuracy" not in row for name, row in rows.items() if name != "model")


def test_a_density_of_codes_decodes_classes_by_their_frequency():
    class Shown(Codes):
        """Decodes to an image as grey as its class, of which there are twice as many ones as zeros."""

        def draw_classes(self, n, y, rng):
            return (3 * rng.uniform(n)).long().clamp_max(1)

        def decode(self, z, y):
            return y.float()[:, None, None, None].expand(-1, *SHAPE)

    drawn = Subject(Shown(), bench(), sampler=("gaussian",)).drawn["model, gaussian on codes"].images
    assert float(drawn.mean()) == pytest.approx(2 / 3, abs=0.08)


def test_densities_of_codes_have_rows_next_to_the_priors(tmp_path):
    around = bench(judge=judge(), cache=Cache(tmp_path))
    with_prior = Subject(CodesAndPrior(quadrants(400, 2)[0]), around, sampler=("mixture",), components=4)
    without = Subject(Codes(), around, sampler=("gaussian", "mixture"), components=4)
    simple = ["real training images", "PCA-Gaussian", "GMM-5"]
    rows = samples.distances(without)
    assert list(rows) == ["model, gaussian on codes", "model, mixture on codes", *simple]
    # Four clusters are a mixture of normal distributions, and not one of them.
    assert rows["model, mixture on codes"]["kernel"] < 0.5 * rows["model, gaussian on codes"]["kernel"]
    both = samples.measure(with_prior)
    assert list(both) == ["model", "model, mixture on codes", *simple]
    assert both["model, mixture on codes"] == samples.measure(without)["model, mixture on codes"]
    shares = samples.classes(without)["model, mixture on codes"]
    assert all(15 < shares[f"class_{label}"] < 35 for label in range(CLASSES))
    assert list(samples.classes(with_prior))[:2] == ["model", "model, mixture on codes"]


def test_codes_that_no_density_fits_have_no_rows():
    with pytest.raises(Unmeasured, match="components=2,000 needs at least 2,000 training images, but there are 1,000"):
        samples.measure(Subject(Codes(), bench(), sampler=("mixture",), components=2000))


def test_class_balance_counts_from_one_and_forgives_no_missing_mode():
    train = replace(source(8, 0), labels=torch.tensor([0, 0, 0, 1, 1, 1, -1, -1]))
    row = samples.compare_classes(torch.tensor([0] * 99 + [2]), torch.tensor([0, 0, 1, 2] * 25), train)
    assert (row["modes"], row["classes"]) == (1, 3)
    expected = 0.99 * math.log(0.99 * 9 / 4) + 0.01 * math.log(0.01 * 9 / 1)
    assert row["class_kl"] == pytest.approx(expected, rel=1e-5)


def test_baselines_are_images_like_the_training_images_and_the_same_each_time():
    around = bench()
    for draw, again in zip(sample_baselines(around).values(), sample_baselines(around).values(), strict=True):
        images = draw()
        assert images.shape == (400, *SHAPE)
        assert images.min() >= 0
        assert images.max() <= 1
        assert (images.mean(0) - around.train.images.mean(0)).abs().max() < 0.08
        assert torch.equal(images, again())


def test_baselines_are_measured_once(tmp_path):
    around = bench(cache=Cache(tmp_path), judge=judge())
    subject = Subject(Draws(quadrants(400, 2)[0]), around)
    for measure, name in ((samples.measure, "samples"), (samples.distances, "distances-quarters")):
        first = measure(subject)
        assert measure(subject) == first
        kept = tmp_path / f"{name}-PCA-Gaussian-seed-0.json"
        kept.write_text(json.dumps({"energy": 7.0}))
        assert measure(subject) == first | {"PCA-Gaussian": {"energy": 7.0}}


def test_classes_by_the_nearest_training_image_and_by_the_judge():
    images, labels = quadrants(400, 2)
    images = images[labels != 3]
    around = Benchmark(source(1000, 0), source(len(images), 1), judge=judge())
    rows = samples.classes(Subject(Draws(images), around))
    names = ("model", "held-out images")
    assert list(rows) == [*names, *(f"{name}, by the judge" for name in names)]
    for name in ("model", "model, by the judge"):
        assert rows[name]["class_3"] == rows[name]["smallest"] == 0
        assert rows[name]["class_0"] == pytest.approx(100 * float((labels[labels != 3] == 0).float().mean()))
    assert rows["held-out images"] == rows["held-out images, by the judge"]
    assert rows["held-out images"]["smallest"] > 15
    assert len(samples.classes(Subject(Draws(images), replace(around, judge="none")))) == 2


def test_samples_are_given_the_class_of_the_nearest_training_image():
    levels = torch.stack([torch.full(SHAPE, v) for v in (0.0, 0.5, 1.0)])
    train = Source(levels, torch.tensor([0, 1, 2]), torch.arange(3), scale=1.0, classes=4)
    images = torch.stack([torch.full(SHAPE, v) for v in (0.1, 0.2, 0.6, 0.9)])
    row = samples.classes(Subject(Draws(images), Benchmark(train, train.take(torch.tensor([0, 0, 1, 2])))))["model"]
    assert row == {"class_0": 50.0, "class_1": 25.0, "class_2": 25.0, "class_3": 0.0, "smallest": 25.0}


def test_training_images_without_a_label_give_none():
    truth = quadrants(1000, 0)[1]
    around = Benchmark(source(1000, 0, labels=torch.where(torch.arange(1000) < 500, truth, -1)), source(40, 1))
    # Copies of images without a label have the class of the nearest labelled one.
    row = samples.classes(Subject(Draws(around.train.images[500:]), around))["model"]
    expected = 100 * truth[500:540].bincount(minlength=CLASSES) / 40
    assert [row[f"class_{label}"] for label in range(CLASSES)] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("measure", [samples.measure, samples.distances, samples.classes])
def test_samples_that_are_no_numbers_are_said_to_be(measure):
    subject = Subject(Draws(torch.full((400, *SHAPE), math.nan)), bench(judge=judge()))
    with pytest.raises(Unmeasured, match="samples are NaN"):
        measure(subject)


def test_what_cannot_be_compared_says_why():
    around = bench(judge="there is no judge for toys")
    with pytest.raises(Unmeasured, match="no judge for toys"):
        samples.distances(Subject(Draws(around.train.images), around))
    few = Benchmark(around.train, source(50, 1), judge=judge())
    with pytest.raises(Unmeasured, match="fewer than 100"):
        samples.measure(Subject(Draws(around.train.images), few))
    for classes in (0, CLASSES):  # of images that never had a label, and of such whose labels are not to be seen
        nameless = replace(around, train=replace(around.train, labels=torch.full((1000,), -1), classes=classes))
        with pytest.raises(Unmeasured, match="no labels"):
            samples.classes(Subject(Draws(around.train.images), nameless))
