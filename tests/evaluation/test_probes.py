"""Classes read off codes: of codes that tell them, of codes that do not, and against slow and other computations."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from aectl.data.datasets import Source, draw_balanced
from aectl.evaluation import probes
from aectl.evaluation.baseline_cache import Cache
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.evaluation.probes import (
    SVC_WIDEST,
    Task,
    few_label_probes,
    knn_probe,
    linear_probe,
    rescale,
    standardise,
    svc_probe,
)
from aectl.models.base import Model
from aectl.rng import Rng

SHAPE, CLASSES = (1, 3, 4), 4


def noise(n, width, seed):
    return Rng(seed).fork("noise").normal(n, width)


def classes(n, seed):
    return (Rng(seed).fork("classes").uniform(n) * CLASSES).long()


def apart(labels, width=6, seed=0, gap=20.0):
    """Return codes that lie in a cluster for each label, far from the others."""
    return gap * noise(CLASSES, width, 100)[labels] + noise(len(labels), width, seed)


def task(make, n=400, m=300):
    """Return a task of codes that `make` makes of labels and a seed."""
    train, test = classes(n, 0), classes(m, 1)
    return Task(make(train, 2), train, make(test, 3), test)


def source(n, seed, labels=None):
    """Return images whose first pixel is brighter the higher the class, the other pixels noise."""
    truth = classes(n, seed)
    images = 0.3 * Rng(seed).fork("images").uniform(n, *SHAPE)
    images[:, 0, 0, 0] += truth * 0.2
    return Source(images, truth if labels is None else labels, torch.arange(n), scale=1.0, classes=CLASSES)


def bench(train=400, held_out=300, **others):
    return Benchmark(source(train, 0), source(held_out, 1), **others)


class Pixels(Model):
    """A model whose codes are some of the pixels, times a factor."""

    def __init__(self, chosen=slice(None), factor=1.0):
        super().__init__()
        self.chosen, self.factor = chosen, factor

    def encode(self, x):
        return self.factor * x.flatten(1)[:, self.chosen]


def every_column(given):
    return linear_probe(given) | svc_probe(given) | knn_probe(given) | few_label_probes(given, bench())


def test_codes_that_tell_the_class_are_read_without_an_error():
    of_clusters = task(lambda labels, seed: apart(labels, seed=seed))
    row = every_column(of_clusters)
    assert {name: value for name, value in row.items() if value} == {
        "linear": 100, "svc": 100, "knn": 100, "linear_10": 100, "linear_100": 100
    }  # fmt: skip


def test_codes_of_noise_are_read_as_well_as_one_guesses():
    of_noise = task(lambda labels, seed: noise(len(labels), 6, seed), n=2000, m=4000)
    row = every_column(of_noise)
    # A share of 4000 that is 1/4 has a standard error of 0.7 %.
    for name in ("linear", "svc", "knn", "linear_10", "linear_100", "linear_1000"):
        assert row[name] == pytest.approx(100 / CLASSES, abs=2.8)
    assert row["linear_ci95"] == pytest.approx(1.96 * 100 * math.sqrt(0.25 * 0.75 / 4000), rel=0.05)


@pytest.mark.parametrize(
    ("probe", "name", "theirs"),
    [
        (linear_probe, "linear", LogisticRegression(C=1.0, max_iter=1000)),
        (svc_probe, "svc", LinearSVC(C=1.0, dual=False, max_iter=1000)),
    ],
    ids=("linear", "svc"),
)
def test_the_linear_probes_are_scikit_learns_on_standardised_codes(probe, name, theirs):
    # Units of very unlike sizes, of which the smallest tell as much as the others.
    def make(labels, seed):
        return apart(labels, seed=seed, gap=1.0) * torch.tensor([0.01, 0.1, 1, 10, 100, 1000]) + 3

    given = task(make)
    expected = make_pipeline(StandardScaler(), theirs).fit(given.train.numpy(), given.train_labels.numpy())
    found = expected.score(given.test.numpy(), given.test_labels.numpy())
    assert 0.5 < found < 0.95
    assert probe(given)[name] == pytest.approx(100 * found, abs=0.34)


def test_codes_too_wide_for_it_have_no_support_vector_machine():
    labels = classes(40, 0)
    for width, has in ((SVC_WIDEST, True), (SVC_WIDEST + 1, False)):
        given = Task(noise(40, width, 0), labels, noise(40, width, 1), labels)
        assert bool(svc_probe(given)) is has


def test_nearest_neighbours_are_found_by_brute_force():
    # More than are looked at a time, few enough bits of them for ties among the votes.
    given = task(lambda labels, seed: apart(labels, seed=seed, gap=0.5), n=150, m=1100)
    squares = ((given.test[:, None] - given.train[None]) ** 2).sum(2).numpy()
    votes = given.train_labels.numpy()[np.argsort(squares, 1)[:, :5]]
    # Of classes with equally many votes, the first.
    found = np.array([np.bincount(row, minlength=CLASSES).argmax() for row in votes])
    expected = 100 * (found == given.test_labels.numpy()).mean()
    assert 30 < expected < 95
    assert knn_probe(given)["knn"] == pytest.approx(expected)
    theirs = KNeighborsClassifier(5).fit(given.train.numpy(), given.train_labels.numpy())
    assert knn_probe(given)["knn"] == pytest.approx(100 * theirs.score(given.test.numpy(), given.test_labels.numpy()))


def test_neighbours_keep_the_distances_of_the_code():
    # A large unit of noise hides the small ones that tell: standardised units would show them.
    def make(labels, seed):
        return torch.cat([apart(labels, seed=seed), 1e4 * noise(len(labels), 6, seed + 50)], 1)

    assert knn_probe(task(make))["knn"] < 50
    assert linear_probe(task(make))["linear"] == 100


def test_fewer_training_images_than_votes_all_vote():
    labels = torch.tensor([1, 1, 0])
    given = Task(apart(labels), labels, apart(torch.tensor([0, 1])), torch.tensor([0, 1]))
    assert knn_probe(given)["knn"] == 50


def test_constant_units_do_not_count_however_they_are_rounded():
    torch.manual_seed(0)
    train = torch.cat([noise(500, 2, 0), torch.full((500, 1), 0.1) + 1e-8 * noise(500, 1, 1)], 1)
    test = torch.tensor([[0.0, 0.0, 0.9]])
    given = standardise(Task(train, classes(500, 0), test, torch.zeros(1).long()))
    assert given.train[:, :2].mean(0).abs().max() < 1e-5
    assert torch.allclose(given.train[:, :2].std(0, correction=0), torch.ones(2), atol=1e-5)
    assert given.train[:, 2].eq(0).all()
    assert given.test[0, 2] == 0


def test_one_scale_leaves_the_shape_of_a_code_as_it_is():
    given = Task(
        noise(500, 3, 0) * torch.tensor([1.0, 5.0, 0.1]) + 7, classes(500, 0), 1e3 * noise(9, 3, 1), classes(9, 0)
    )
    found = rescale(given)
    assert float(found.train.var(0, correction=0).mean()) == pytest.approx(1, rel=1e-4)
    assert found.train.mean(0).abs().max() < 1e-4
    ratio = torch.cdist(found.test, found.test) / torch.cdist(given.test, given.test)
    assert torch.allclose(ratio[0, 1:], ratio[0, 1].expand(8), rtol=1e-4)
    nothing = Task(torch.ones(5, 2), classes(5, 0), torch.ones(2, 2), classes(2, 0))
    assert rescale(nothing).test.eq(0).all()


def test_few_labels_are_equally_many_of_each_class():
    labels = classes(1000, 0)
    drawn = draw_balanced(labels, 100, Rng(0))
    assert labels[drawn].bincount().tolist() == [25] * CLASSES
    assert len(set(drawn.tolist())) == 100
    counts = labels[draw_balanced(labels, 10, Rng(0))].bincount()
    assert sorted(counts.tolist()) == [2, 2, 3, 3]
    # Which classes have one more is drawn, and so is which images are taken.
    odd = {tuple(labels[draw_balanced(labels, 5, Rng(seed))].bincount().tolist()) for seed in range(40)}
    assert len(odd) == CLASSES
    assert len({i for seed in range(60) for i in draw_balanced(labels, 100, Rng(seed)).tolist()}) > 990


def test_where_a_class_is_rare_the_others_have_more():
    labels = torch.cat([torch.zeros(3), torch.ones(50), torch.full((50,), 7)]).long()
    drawn = labels[draw_balanced(labels, 23, Rng(0))]
    assert [int((drawn == label).sum()) for label in (0, 1, 7)] == [3, 10, 10]
    assert sorted(draw_balanced(labels, 103, Rng(0)).tolist()) == list(range(103))


def test_the_spread_of_few_labels_is_over_draws():
    given = task(lambda labels, seed: apart(labels, seed=seed, gap=1.0))
    one = bench()
    found = []
    for i in range(5):
        drawn = draw_balanced(given.train_labels, 10, one.rng("few labels", 10, i))
        scaled = rescale(given)
        model = LogisticRegression().fit(scaled.train[drawn].numpy(), given.train_labels[drawn].numpy())
        found.append(100 * model.score(scaled.test.numpy(), given.test_labels.numpy()))
    row = few_label_probes(given, one)
    assert row["linear_10"] == pytest.approx(np.mean(found))
    assert row["linear_10_sd"] == pytest.approx(np.std(found, ddof=1))
    assert row["linear_10_sd"] > 0
    assert few_label_probes(given, bench(seed=1)) != row


def test_rows_are_the_models_pcas_and_the_pixels_and_share_the_draws():
    rows = probes.measure(Subject(Pixels(slice(0, 5)), bench()))
    assert list(rows) == ["model", "PCA-5", "raw pixels"]
    # Of 400 training images there are no thousand.
    names = ["linear", "svc", "knn", "linear_10", "linear_100"]
    assert all([name for name in row if not name.endswith(("_ci95", "_sd"))] == names for row in rows.values())
    assert rows["model"]["linear"] > 70
    # A model that leaves pixels as they are has the numbers of raw pixels in every column.
    same = probes.measure(Subject(Pixels(), bench()))
    assert same["model"] == same["raw pixels"]
    assert same["model"] == pytest.approx(probes.measure(Subject(Pixels(factor=1e3), bench()))["model"])
    blind = probes.measure(Subject(Pixels(slice(1, 12)), bench()))
    assert blind["model"]["linear"] == pytest.approx(25, abs=10)


def test_images_without_a_label_and_classes_unknown_in_training_do_not_count():
    plain = bench()
    train, held_out = source(800, 0), source(300, 1)
    # Behind the labelled images stand others, whose first pixel would mislead.
    misleading = replace(source(200, 5), images=1 - source(200, 5).images, labels=torch.full((200,), -1))
    train = joined(plain.train, misleading)
    unknown = replace(source(50, 6), labels=torch.tensor([-1, 7]).repeat(25), classes=8)
    held_out = joined(plain.held_out, unknown)
    expected = probes.measure(Subject(Pixels(), plain))
    found = probes.measure(Subject(Pixels(), Benchmark(train, held_out)))
    assert found["model"] == expected["model"]
    assert found["raw pixels"] == expected["raw pixels"]


def joined(a, b):
    images, labels = torch.cat([a.images, b.images]), torch.cat([a.labels, b.labels])
    return Source(images, labels, torch.arange(len(images)), 1.0, max(a.classes, b.classes))


def test_what_cannot_be_read_says_why():
    def measured(train_labels, held_out_labels, model=None):
        around = Benchmark(source(40, 0, train_labels), source(20, 1, held_out_labels))
        return probes.measure(Subject(model or Pixels(), around))

    none, two, one = torch.full((40,), -1), torch.arange(40) % 2, torch.ones(40).long()
    with pytest.raises(Unmeasured, match="no labels"):
        measured(none, two[:20])
    with pytest.raises(Unmeasured, match="of one class"):
        measured(torch.where(torch.arange(40) < 9, one, none), two[:20])
    for unknown in (none[:20], two[:20] + 5):
        with pytest.raises(Unmeasured, match="no held-out image has a label that a training image has"):
            measured(two, unknown)
    with pytest.raises(Unmeasured, match="codes are NaN"):
        measured(two, two[:20], Pixels(factor=math.nan))


def test_baselines_are_measured_once_and_few_labels_for_each_seed(tmp_path):
    subject = Subject(Pixels(slice(0, 5)), bench(cache=Cache(tmp_path)))
    first = probes.measure(subject)
    assert probes.measure(subject) == first
    kept = sorted(path.name for path in tmp_path.glob("probe-*.json"))
    assert kept == [
        "probe-linear-pca-5.json", "probe-linear-raw-pixels.json",
        "probe-others-pca-5-seed-0.json", "probe-others-raw-pixels-seed-0.json",
        "probe-svc-pca-5.json", "probe-svc-raw-pixels.json",
    ]  # fmt: skip
    (tmp_path / "probe-linear-pca-5.json").write_text(json.dumps({"linear": 1.0}))
    (tmp_path / "probe-others-raw-pixels-seed-0.json").write_text(json.dumps({"knn": 2.0}))
    again = probes.measure(subject)
    assert again["model"] == first["model"]
    assert again["PCA-5"]["linear"] == 1
    kept_too = {name: value for name, value in first["raw pixels"].items() if name.startswith(("linear_ci", "svc"))}
    assert again["raw pixels"] == {"linear": first["raw pixels"]["linear"], "knn": 2} | kept_too
    other = probes.measure(replace(subject, bench=replace(subject.bench, seed=1)))
    assert other["PCA-5"]["linear"] == 1
    assert other["raw pixels"]["linear_10"] != first["raw pixels"]["linear_10"]


def test_a_classifiers_baseline_is_the_linear_probe_of_the_pixels():
    expected = probes.measure(Subject(Pixels(), bench()))["raw pixels"]
    assert probes.linear_accuracy(bench()) == {
        "accuracy": expected["linear"],
        "accuracy_ci95": expected["linear_ci95"],
    }
