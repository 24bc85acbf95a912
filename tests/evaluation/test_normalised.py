"""Models of energies alone: every way of normalising them has a row, and its error an interval."""

import math

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation import anomaly, likelihood
from aectl.evaluation.context import Benchmark, Subject
from aectl.evaluation.registry import report
from aectl.models.base import Model, Partition, Score
from aectl.models.partition import enumerate_states
from aectl.models.rbm import RBM
from aectl.rng import Rng

SHAPE = (1, 3, 3)


def source(images):
    n = len(images)
    return Source(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), scale=1.0, classes=1)


def subject(model, held_out=None, train=None, **outliers):
    x = Rng(1).uniform(200, *SHAPE) if held_out is None else held_out
    data = Benchmark(source(Rng(0).uniform(300, *SHAPE) if train is None else train), source(x), outliers)
    return Subject(model.eval().requires_grad_(False), data)


class Counts(Model):
    """E(v) = the number of white pixels, so that Z = (1 + 1/e)^9; two ways of normalising, one of them wrong by 0.5."""

    def __init__(self, of="binary pixels"):
        super().__init__()
        self.of = of

    def energy(self, x):
        return x.flatten(1).sum(1)

    def observe(self, x, rng):
        return rng.bernoulli(x) if self.of == "binary pixels" else x

    def log_partition(self, *, rng):
        value = 9 * math.log1p(math.exp(-1))
        return [Partition(value, 0.0, "exact", self.of), Partition(value + 0.5, 0.3, "AIS", self.of)]


def test_each_way_has_a_row_whose_interval_is_of_images_and_constant():
    rows = likelihood.measure(subject(Counts()))
    assert list(rows) == ["model", "model, AIS", "independent Bernoulli"]
    exact, other = rows["model"], rows["model, AIS"]
    # Draws of uniform grey are fair coins: 4.5 white pixels in the mean.
    assert exact["nll"] == pytest.approx(4.5 + 9 * math.log1p(math.exp(-1)), abs=4 * 1.5 / 200**0.5)
    assert other["nll"] - exact["nll"] == pytest.approx(0.5)
    assert exact["nll_ci95"] == pytest.approx(1.96 * 1.5 / 200**0.5, rel=0.2)
    assert other["nll_ci95"] == pytest.approx(math.hypot(exact["nll_ci95"], 0.3))
    assert other["log_z"] - exact["log_z"] == pytest.approx(0.5)
    assert (exact["log_z_ci95"], other["log_z_ci95"]) == (0, 0.3)
    assert [row["kind"] for row in rows.values()] == ["exact", "AIS", "exact"]
    assert {row["binarisation"] for row in rows.values()} == {"dynamic"}
    assert exact["images"] == 200


def test_a_density_of_grey_pixels_stands_beside_densities():
    rows = likelihood.measure(subject(Counts("grey pixels")))
    assert list(rows) == ["model", "model, AIS", "independent normal"]
    assert {row["binarisation"] for row in rows.values()} == {"none"}


def test_how_pixels_became_binary_is_told():
    grey, binary = Rng(0).uniform(5, *SHAPE), Rng(0).uniform(5, *SHAPE).round()
    assert likelihood.binarisation_of_draws(binary, binary) == "fixed"
    assert likelihood.binarisation_of_draws((grey >= 0.5).float(), grey) == "threshold"
    assert likelihood.binarisation_of_draws(Rng(1).bernoulli(grey), grey) == "dynamic"


def test_a_small_machine_is_measured_exactly_and_both_estimates_come_near():
    torch.manual_seed(0)
    model = RBM(SHAPE, 4, temperatures=300)
    with torch.no_grad():
        model.weight.copy_(Rng(0).normal(4, 9))
    x = Rng(1).uniform(400, *SHAPE).round()
    rows = likelihood.measure(subject(model, x))
    assert list(rows) == ["model", "model, AIS", "model, reverse AIS", "independent Bernoulli"]
    p = (-model.energy(enumerate_states(9, x).view(-1, *SHAPE)).double()).softmax(0)
    expected = -float(p.log()[(x.flatten(1).long() << torch.arange(9)).sum(1)].mean())
    assert rows["model"]["nll"] == pytest.approx(expected, abs=1e-4)
    for kind in ("AIS", "reverse AIS"):
        assert rows[f"model, {kind}"]["nll"] == pytest.approx(expected, abs=0.2)
        assert rows[f"model, {kind}"]["kind"] == kind
    assert rows["model"]["binarisation"] == "fixed"


def test_pixels_cut_at_a_half_stand_beside_independent_ones_cut_alike():
    train, x = 0.6 * Rng(0).uniform(4000, *SHAPE), 0.6 * Rng(1).uniform(2000, *SHAPE)
    rows = likelihood.measure(subject(RBM(SHAPE, 4, binarise="threshold", temperatures=5), x, train))
    assert {row["binarisation"] for row in rows.values()} == {"threshold"}
    # A sixth of the pixels is white.
    entropy = -9 * (math.log(1 / 6) / 6 + math.log(5 / 6) * 5 / 6)
    assert rows["independent Bernoulli"]["nll"] == pytest.approx(entropy, abs=0.1)


class Scored(Counts):
    """Has a likelihood too, which must not be asked for where an order is enough."""

    def log_prob(self, x, *, rng, samples=None):
        return Score(torch.full((len(x),), math.nan), "estimate", "binary pixels")


def test_strangers_are_told_by_the_energy_of_what_the_model_observes():
    white = torch.full((100, *SHAPE), 0.9)
    tested = subject(Scored(), torch.full((100, *SHAPE), 0.1), white=source(white))
    rows = anomaly.measure(tested)
    assert "model, likelihood" not in rows
    assert rows["model, energy"]["auroc_white"] > 0.99
    inside, outside = anomaly.energies(tested)["white"]
    assert torch.equal(outside, outside.round())
    assert float(outside.mean()) == pytest.approx(8.1, abs=0.4)
    assert float(inside.mean()) == pytest.approx(0.9, abs=0.4)


def test_energies_of_grey_pixels_are_taken_as_they_are():
    tested = subject(Counts("grey pixels"), white=source(torch.full((10, *SHAPE), 0.75)))
    assert torch.equal(anomaly.energies(tested)["white"][1], torch.full((10,), 6.75))


def test_the_report_has_a_likelihood_of_models_without_scores():
    tables = report(subject(Counts()), only=["likelihood"]).tables
    assert list(tables) == ["likelihood"]
