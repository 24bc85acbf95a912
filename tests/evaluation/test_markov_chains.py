"""Chains whose worth is known in closed form, and models whose states are."""

import math

import pytest
import torch

from aectl.data.datasets import Source
from aectl.evaluation import markov_chains
from aectl.evaluation.context import Benchmark, Subject, Unmeasured
from aectl.evaluation.markov_chains import autocovariance, effective_size, r_hat
from aectl.evaluation.registry import report
from aectl.models.base import Model
from aectl.rng import Rng

SHAPE = (1, 2, 3)


def autoregressive(rho, count=20, length=5000, seed=0):
    """Stationary chains x_t = ρ x_t-1 + √(1 - ρ²) ε_t, of variance one."""
    noise = Rng(seed).normal(length, count).double()
    x, states = noise[0], []
    for now in noise:
        x = rho * x + math.sqrt(1 - rho**2) * now
        states.append(x)
    return torch.stack(states, 1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.5])
def test_the_effective_size_of_autoregressive_chains_is_known(rho):
    traces = autoregressive(rho)
    # τ = 1 + 2 Σ ρ^t = (1 + ρ) / (1 - ρ).
    assert effective_size(traces) == pytest.approx(traces.numel() * (1 - rho) / (1 + rho), rel=0.1)
    assert r_hat(traces) == pytest.approx(1, abs=0.01)


def test_the_mean_of_chains_varies_as_that_of_so_many_independent_draws():
    groups = autoregressive(0.8, count=4 * 500, length=400).view(500, 4, 400)
    sizes = torch.tensor([effective_size(traces) for traces in groups])
    assert 1 / float(groups.mean((1, 2)).var()) == pytest.approx(float(sizes.mean()), rel=0.2)


def test_antithetic_chains_are_worth_more_than_independent_draws_but_not_without_end():
    traces = autoregressive(-0.99, count=4, length=1000)
    assert traces.numel() < effective_size(traces) <= traces.numel() * math.log10(traces.numel())


def test_r_hat_is_the_formula():
    traces = torch.tensor([[0.0, 2.0, 1.0, 5.0], [4.0, 6.0, 7.0, 5.0]])
    # The halves have the means 1, 3, 5, 6 and the variances 2, 8, 2, 2: W = 3.5, and the means' variance is 59/12.
    assert r_hat(traces) == pytest.approx(math.sqrt((3.5 / 2 + 59 / 12) / 3.5), rel=1e-6)


def test_chains_in_places_of_their_own_and_drifts_are_seen():
    traces = autoregressive(0.5, count=6, length=1000)
    apart = traces + 3 * torch.arange(6)[:, None]
    assert r_hat(apart) > 2
    assert effective_size(apart) < 20
    drifting = traces + torch.linspace(0, 8, 1000)
    assert r_hat(drifting) > 1.5
    # Unsplit, the chains would all have one mean and one variance.
    assert float(drifting.mean(1).std()) < 0.3


def test_an_odd_draw_is_left_out():
    traces = autoregressive(0.5, count=3, length=101)
    assert markov_chains.halves(traces).shape == (6, 50)
    assert torch.equal(markov_chains.halves(traces)[:3], traces[:, :50])
    assert torch.equal(markov_chains.halves(traces)[3:], traces[:, -50:])


def test_autocovariances_are_sums_of_products():
    x = Rng(0).normal(2, 7).double()
    centred = x - x.mean(1, keepdim=True)
    expected = torch.stack([(centred[:, : 7 - t] * centred[:, t:]).sum(1) / 7 for t in range(7)], 1)
    torch.testing.assert_close(autocovariance(x), expected)


class Coins(Model):
    """Every pixel keeps its state with a probability, and else is tossed anew."""

    def __init__(self, keep=0.0):
        super().__init__()
        self.keep = keep

    def start(self, n, *, rng):
        return torch.ones(n, *SHAPE)

    def walk(self, x, rng):
        stays = rng.uniform(*x.shape) < self.keep
        return torch.where(stays, x, rng.bernoulli(torch.full_like(x, 0.5)))


class Weighed(Coins):
    """Has energies too."""

    def energy(self, x):
        return x.flatten(1) @ torch.arange(6.0)


class Frozen(Coins):
    """Never moves."""

    def walk(self, x, rng):
        return x


def subject(model):
    images = Rng(0).uniform(30, *SHAPE)
    data = Source(images, torch.zeros(30, dtype=torch.int64), torch.arange(30), scale=1.0, classes=1)
    return Subject(model.eval(), Benchmark(data, data))


def test_a_model_that_forgets_at_once_is_worth_as_much_as_independent_draws():
    rows = markov_chains.measure(subject(Coins()))
    assert list(rows) == ["model", "independent draws"]
    assert rows["model"]["ess_intensity"] == pytest.approx(rows["independent draws"]["ess_intensity"], rel=0.1)
    assert rows["model"]["rhat_intensity"] == pytest.approx(1, abs=0.01)
    assert not any("energy" in name for name in rows["model"])
    how = {"chains": 20, "draws": 500, "burn_in": 1000, "thinning": 10}
    assert all(row[name] == value for row in rows.values() for name, value in how.items())


def test_draws_are_a_thinning_apart_and_energies_are_looked_at_where_there_are_any():
    row = markov_chains.measure(subject(Weighed(keep=0.98)))["model"]
    rho = 0.98**10
    for name in ("intensity", "energy"):
        assert row[f"ess_{name}"] == pytest.approx(20 * 500 * (1 - rho) / (1 + rho), rel=0.3)


def test_the_burn_in_is_left_out():
    # Behind the start only the first 1,000 steps remember it: 0.99^1000 < 10^-4.
    traces = markov_chains.walk(Coins(keep=0.99), Rng(0))["intensity"]
    assert traces.shape == (20, 500)
    assert abs(float(traces[:, 0].mean()) - 0.5) < 4 * 0.5 / (6 * 20) ** 0.5


def test_chains_that_do_not_move_are_told_so():
    with pytest.raises(Unmeasured, match="do not move"):
        markov_chains.measure(subject(Frozen()))


def test_the_report_has_chains_of_models_that_walk_alone():
    assert "chains" in report(subject(Coins()), only=["chains"]).tables
    assert not report(subject(Model()), only=["chains"]).tables
    assert "do not move" in report(subject(Frozen()), only=["chains"]).missing["chains"]
