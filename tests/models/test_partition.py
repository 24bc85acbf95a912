"""Normalising constants against sums over all states, and bounds that lie on their own side."""

import math
from itertools import product

import pytest
import torch

from aectl.models import partition
from aectl.models.partition import ais, compute_ci95, enumerate_log_z, enumerate_states, mean_to_bias, reverse_ais
from aectl.rng import Rng


def energy(pixels, hidden, scale=1.0, seed=0):
    """Weights [H, V], visible and hidden biases of a random machine."""
    rng = Rng(seed)
    return scale * rng.normal(hidden, pixels), rng.normal(pixels), rng.normal(hidden)


def summed(weights, visible_bias, hidden_bias):
    """Log Z, term by term."""
    weights, visible_bias, hidden_bias = weights.double(), visible_bias.double(), hidden_bias.double()
    layers = [[torch.tensor(state).double() for state in product((0, 1), repeat=n)] for n in weights.shape]
    return math.log(sum(math.exp(v @ visible_bias + h @ hidden_bias + h @ weights @ v) for h, v in product(*layers)))


def drawn(weights, visible_bias, hidden_bias, n, seed):
    """States v [n, V], drawn from the distribution itself."""
    v = enumerate_states(len(visible_bias), weights)
    log_p = v @ visible_bias + torch.nn.functional.softplus(v @ weights.T + hidden_bias).sum(1)
    edges = log_p.double().softmax(0).cumsum(0)
    return v[torch.searchsorted(edges, Rng(seed).uniform(n).double()).clamp_max(len(v) - 1)]


@pytest.mark.parametrize(("pixels", "hidden"), [(4, 3), (3, 4), (5, 1), (1, 5), (1, 1)])
def test_enumeration_is_the_sum_over_all_states(pixels, hidden):
    machine = energy(pixels, hidden, scale=2.0)
    found = enumerate_log_z(*machine)
    assert found.value == pytest.approx(summed(*machine), rel=1e-12)
    assert (found.ci95, found.kind, found.of) == (0, "exact", "binary pixels")


def test_either_layer_may_be_called_visible():
    weights, visible, hidden = energy(30, 9)
    assert enumerate_log_z(weights, visible, hidden).value == pytest.approx(
        enumerate_log_z(weights.T, hidden, visible).value, rel=1e-12
    )
    one = ais(weights, visible, hidden, rng=Rng(0), betas=500)
    other = ais(weights.T, hidden, visible, rng=Rng(0), betas=500)
    for found in (one, other):
        assert found.value == pytest.approx(enumerate_log_z(weights, visible, hidden).value, abs=0.2)


def test_the_middle_of_three_layers_is_a_side():
    first, second = Rng(0).normal(3, 4), Rng(1).normal(2, 3)
    b, c, d = Rng(2).normal(4), Rng(3).normal(3), Rng(4).normal(2)
    outer = torch.cat([first, second.T], 1)
    v, h, g = enumerate_states(4, b), enumerate_states(3, b), enumerate_states(2, b)
    terms = (v @ b)[:, None, None] + (h @ c)[None, :, None] + (g @ d)[None, None]
    terms = terms + (v @ first.T @ h.T)[:, :, None] + (h @ second.T @ g.T)[None]
    expected = float(terms.double().flatten().logsumexp(0))
    assert enumerate_log_z(outer, torch.cat([b, d]), c).value == pytest.approx(expected, abs=1e-5)


def test_two_large_layers_cannot_be_enumerated():
    with pytest.raises(ValueError, match="at most 20 units, not 21"):
        enumerate_log_z(*energy(21, 22))
    assert partition.is_enumerable(torch.zeros(20, 500))
    assert not partition.is_enumerable(torch.zeros(21, 500))


def test_twenty_units_are_enumerated():
    weights, visible, hidden = torch.zeros(20, 5), Rng(0).normal(5), Rng(1).normal(20)
    expected = sum(float(torch.nn.functional.softplus(bias.double()).sum()) for bias in (visible, hidden))
    assert enumerate_log_z(weights, visible, hidden).value == pytest.approx(expected, rel=1e-10)


def test_states_are_all_of_them_once():
    found = enumerate_states(3, torch.zeros(()))
    assert sorted(map(tuple, found.tolist())) == sorted(product((0.0, 1.0), repeat=3))


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_both_ways_of_annealing_find_the_constant(scale):
    machine = energy(12, 8, scale)
    value = enumerate_log_z(*machine).value
    forward = ais(*machine, rng=Rng(1), base_bias=0.5 * machine[1], betas=1000)
    assert forward.value == pytest.approx(value, abs=0.1)
    backward = reverse_ais(*machine, drawn(*machine, 100, 2), rng=Rng(3), base_bias=0.5 * machine[1], betas=1000)
    assert backward.value == pytest.approx(value, abs=0.1)
    assert (forward.kind, backward.kind) == ("AIS", "reverse AIS")


def test_the_two_ways_err_on_their_own_sides():
    machine = energy(10, 10, scale=2.0)
    value = enumerate_log_z(*machine).value
    forward = [ais(*machine, rng=Rng(i), chains=4, betas=8).value - value for i in range(60)]
    backward = [reverse_ais(*machine, drawn(*machine, 4, i), rng=Rng(i), betas=8).value - value for i in range(60)]
    assert sum(forward) / 60 < -0.3
    assert sum(backward) / 60 > 0.3


def test_the_interval_holds_the_value_nineteen_times_in_twenty():
    machine = energy(8, 6)
    value = enumerate_log_z(*machine).value
    found = [ais(*machine, rng=Rng(i), betas=50) for i in range(100)]
    assert 88 <= sum(abs(one.value - value) <= one.ci95 for one in found) <= 100
    assert all(one.ci95 < 0.5 for one in found)


def test_the_interval_is_of_the_logarithm_of_a_mean():
    assert compute_ci95(torch.tensor([0.0, math.log(3)]).double()) == pytest.approx(
        1.96 * math.sqrt(2) / 2 / math.sqrt(2)
    )
    assert compute_ci95(torch.full((5,), -1e4).double()) == 0
    assert compute_ci95(torch.zeros(1)) == math.inf


def test_units_without_links_take_no_annealing():
    visible, hidden = Rng(0).normal(6), Rng(1).normal(4)
    machine = (torch.zeros(4, 6), visible, hidden)
    given = {"base_bias": visible, "base_hidden_bias": hidden, "betas": 2}
    value = enumerate_log_z(*machine).value
    assert ais(*machine, rng=Rng(0), **given).value == pytest.approx(value, rel=1e-12)
    assert reverse_ais(*machine, Rng(0).bernoulli(torch.full((7, 6), 0.5)), rng=Rng(0), **given).ci95 == 0


def test_large_constants_keep_their_decimals():
    weights, visible, hidden = torch.zeros(2, 3000), torch.full((3000,), 20.0), torch.tensor([0.001, 0.0])
    expected = 3000 * math.log1p(math.exp(20)) + math.log1p(math.exp(float(hidden[0]))) + math.log(2)
    assert enumerate_log_z(weights, visible, hidden).value == pytest.approx(expected, abs=1e-6)
    found = ais(weights, visible, hidden, rng=Rng(0), base_bias=visible, betas=3)
    assert found.value == pytest.approx(expected, abs=1e-3)


def test_temperatures_are_a_number_or_given():
    machine = energy(6, 4)
    one = ais(*machine, rng=Rng(0), betas=11)
    other = ais(*machine, rng=Rng(0), betas=torch.linspace(0, 1, 11))
    assert one.value == pytest.approx(other.value, abs=1e-5)


def test_biases_have_the_given_means():
    mean = torch.tensor([0.0, 0.2, 0.5, 1.0])
    torch.testing.assert_close(mean_to_bias(mean).sigmoid(), torch.tensor([0.001, 0.2, 0.5, 0.999]))
