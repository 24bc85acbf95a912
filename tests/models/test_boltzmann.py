"""The Boltzmann machine against a sum over all its states, term by term, and its sampled gradient beside the exact."""

import itertools
import math
from functools import partial

import pytest
import torch

from aectl.data.patches import patches
from aectl.models.base import Batch, Encodes, Normalises, Samples, Scores, Walks
from aectl.models.boltzmann import Boltzmann
from aectl.models.partition import enumerate_states
from aectl.rng import Rng
from aectl.training import checkpoint
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.trainer import Trainer

SHAPE = (1, 3, 3)


def machine(hidden=2, scale=0.5, shape=SHAPE, **others):
    """A machine with random weights and biases."""
    torch.manual_seed(0)
    model, rng = Boltzmann(shape, hidden, **others), Rng(0)
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(scale * rng.normal(*part.shape))
    return model


def images(n=40, seed=1):
    return Batch(Rng(seed).bernoulli(torch.full((n, *SHAPE), 0.4)), torch.arange(n), torch.arange(n))


def all_images(pixels=9):
    return enumerate_states(pixels, torch.zeros(())).view(-1, 1, *[math.isqrt(pixels)] * 2)


def log_probabilities(weight, bias, hidden):
    """Log p(v) of all images, [2^pixels], from E(s) = -Σ_i<j W_ij s_i s_j - Σ_i b_i s_i, pair by pair, in float64."""
    units = len(bias)
    s = enumerate_states(units, torch.zeros(()).double())
    minus_energy = s @ bias.double()
    for i, j in itertools.combinations(range(units), 2):
        minus_energy = minus_energy + weight[i, j].double() * s[:, i] * s[:, j]
    log_p = minus_energy - minus_energy.logsumexp(0)
    # Of a state the pixels are the lower digits, the hidden units the higher ones.
    return log_p.view(2**hidden, -1).logsumexp(0)


@pytest.mark.parametrize("hidden", [0, 1, 3])
def test_probabilities_are_those_of_the_sum_over_all_states(hidden):
    model = machine(hidden)
    expected = log_probabilities(model.weight.detach(), model.bias.detach(), hidden)
    score = model.log_prob(all_images(), rng=Rng(0))
    torch.testing.assert_close(score.value.detach().double(), expected, atol=1e-4, rtol=0)
    assert (score.kind, score.of) == ("exact", "binary pixels")
    (way,) = model.log_partition(rng=Rng(0))
    assert (way.kind, way.ci95, way.of) == ("exact", 0, "binary pixels")
    found = (-model.energy(all_images()) - way.value).detach().double()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("side", "hidden"), [(3, 4), (4, 2)])
def test_the_probabilities_of_all_patches_sum_to_one(side, hidden):
    model = machine(hidden, shape=(1, side, side))
    log_p = model.log_prob(all_images(side**2), rng=Rng(0)).value.detach()
    assert len(log_p) == 2 ** (side**2)
    assert float(log_p.double().exp().sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("hidden", [0, 2])
def test_the_exact_gradient_is_that_of_the_enumerated_likelihood(hidden):
    model, batch = machine(hidden), images()
    weight, bias = (part.detach().double().requires_grad_() for part in (model.weight, model.bias))
    codes = (batch.x.flatten(1).long() << torch.arange(9)).sum(1)
    nll = -log_probabilities(weight, bias, hidden)[codes].mean()
    expected = torch.autograd.grad(nll, (weight, bias))
    (loss,) = model.losses(batch, None, Rng(0))
    assert float(loss.value.detach()) == pytest.approx(float(nll.detach()), abs=1e-4)
    for found, wanted in zip(torch.autograd.grad(loss.value, (model.weight, model.bias)), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hidden", [0, 2])
def test_the_sampled_gradient_is_the_exact_one_within_its_error(hidden):
    model, chains = machine(hidden, persistent=4000, steps=150, settle=30, gradient="gibbs"), 4000
    batch = images(20)._replace(x=images(20).x.repeat(100, 1, 1, 1))
    values = model.compute_scalars(batch.x.flatten(1), Rng(0))
    exact, gibbs = (torch.autograd.grad(value, (model.weight, model.bias)) for value in values.values())
    s = model.chains.double()
    pairs, p = s[:, :, None] * s[:, None], s.mean(0)
    # A moment's error has the variance of its chains; that of hidden units clamped to data is below it.
    count = chains if hidden == 0 else 1000
    errors = (pairs.var(0) / count).sqrt(), (p * (1 - p) / count).sqrt()
    upper = torch.ones(model.units, model.units).triu(1).bool()
    z = torch.cat(
        [
            ((gibbs[0] - exact[0]) / errors[0].clamp_min(0.002))[upper],
            (gibbs[1] - exact[1]) / errors[1].clamp_min(0.002),
        ]
    )
    assert float(z.abs().max()) < 4.5
    assert float(z.square().mean()) < 2
    # Much smaller than the gradient that it is the error of.
    difference = torch.cat([(a - b).flatten() for a, b in zip(exact, gibbs, strict=True)]).norm()
    assert difference < 0.2 * torch.cat([part.flatten() for part in exact]).norm()


def test_the_sampled_gradient_is_the_difference_of_moments():
    model, batch = machine(0, gradient="gibbs", persistent=7, steps=2), images()
    rng, before = Rng(3), model.chains.clone()
    model.observe(batch.x, rng)
    expected = model.gibbs(before, 2, rng, range(9))
    (loss,) = model.losses(batch, None, Rng(3))
    assert torch.equal(model.chains, expected)
    weight, bias = torch.autograd.grad(loss.value, (model.weight, model.bias))
    v = batch.x.flatten(1)
    torch.testing.assert_close(weight, (expected.T @ expected / 7 - v.T @ v / 40).triu(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bias, expected.mean(0) - v.mean(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gradient", ["exact", "gibbs"])
def test_both_gradients_are_logged_whichever_is_descended(gradient):
    model, batch = machine(2, gradient=gradient), images()
    (loss,) = model.losses(batch, None, Rng(0))
    metrics = {name: float(value) for name, value in loss.metrics.items()}
    own = torch.cat([part.flatten() for part in torch.autograd.grad(loss.value, (model.weight, model.bias))])
    assert metrics[f"gradient_{gradient}"] == pytest.approx(float(own.norm()), rel=1e-5)
    assert metrics["gradient_exact"] != pytest.approx(metrics["gradient_gibbs"], rel=1e-4)
    assert -1 <= metrics["cosine"] < 1
    assert metrics["nll"] == pytest.approx(float(model.validate(batch, Rng(0))["loss"].detach()), rel=1e-5)


def test_more_chains_bring_the_two_gradients_together():
    cosines = []
    for persistent in (5, 5000):
        (loss,) = machine(2, persistent=persistent, steps=30).losses(images(), None, Rng(0))
        cosines.append(float(loss.metrics["cosine"]))
    assert cosines[0] < cosines[1]
    assert cosines[1] > 0.98


def frequencies(x):
    """The share of each of the 512 images."""
    codes = (x.flatten(1).long() << torch.arange(9)).sum(1)
    return codes.bincount(minlength=512).double() / len(x)


def chi_square(x, p):
    return float((len(x) * (frequencies(x) - p).square() / p).sum())


LARGEST = 511 + 4 * (2 * 511) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("hidden", [0, 3])
@torch.no_grad()
def test_samples_come_as_often_as_their_probability_says(hidden, temperature):
    model = machine(hidden)
    drawn = model.sample(60_000, rng=Rng(0), temperature=temperature)
    assert drawn.shape == (60_000, *SHAPE)
    p = log_probabilities(model.weight / temperature, model.bias / temperature, hidden).exp()
    assert chi_square(drawn, p) < LARGEST
    if temperature != 1:
        assert chi_square(drawn, log_probabilities(model.weight, model.bias, hidden).exp()) > LARGEST


@torch.no_grad()
def test_at_no_temperature_there_is_the_likeliest_image_alone():
    model = machine(0)
    (likeliest,) = model.sample(50, rng=Rng(0), temperature=0.0).unique(dim=0)
    assert torch.equal(likeliest, all_images()[model.energy(all_images()).argmin()])


@pytest.mark.parametrize("hidden", [0, 3])
@torch.no_grad()
def test_a_step_of_the_walk_leaves_the_distribution_as_it_is(hidden):
    model = machine(hidden)
    p = log_probabilities(model.weight, model.bias, hidden).exp()
    x = model.sample(60_000, rng=Rng(0))
    moved = model.walk(x, Rng(1))
    assert moved.shape == x.shape
    assert float((moved != x).flatten(1).any(1).float().mean()) > 0.3
    assert chi_square(moved, p) < LARGEST


@torch.no_grad()
def test_walks_come_to_the_distribution_from_black_and_white():
    model = machine(2)
    p = log_probabilities(model.weight, model.bias, 2).exp()
    x = model.start(40_000, rng=Rng(0))
    assert float(x.flatten(1).mean(1).std()) == pytest.approx(math.sqrt(1 / 12 + 1 / 54), abs=0.02)
    assert chi_square(x, p) > 10 * LARGEST
    rng = Rng(1)
    for _ in range(60):
        x = model.walk(x, rng)
    assert chi_square(x, p) < LARGEST


@torch.no_grad()
def test_clamped_sweeps_leave_the_pixels_and_settle_the_hidden_units():
    model = machine(3, scale=1.0, settle=30)
    v = images(4).x.flatten(1)
    s = model.sample_clamped(v.repeat(10_000, 1), Rng(0))
    assert torch.equal(s[:, :9], v.repeat(10_000, 1))
    codes = (s[:, 9:].long() << torch.arange(3)).sum(1)
    p = model.joint(v).softmax(1)
    for i in range(4):
        torch.testing.assert_close(codes[i::4].bincount(minlength=8) / 10_000, p[i], atol=0.025, rtol=0)


def test_weights_below_and_on_the_diagonal_say_nothing():
    model = machine(2)
    before = model.energy(all_images()).detach()
    with torch.no_grad():
        model.weight.add_(torch.ones_like(model.weight).tril())
    assert torch.equal(model.energy(all_images()).detach(), before)
    (loss,) = model.losses(images(), None, Rng(0))
    loss.value.backward()
    assert not model.weight.grad.tril().any()


def test_it_can_do_what_it_says():
    model = machine()
    assert all(isinstance(model, ability) for ability in (Samples, Scores, Normalises, Walks))
    assert not isinstance(model, Encodes)


def test_preparation_meets_the_mean_of_the_training_images():
    model = Boltzmann(SHAPE, 2)
    model.prepare(iter([images(30), images(10, seed=2)]))
    mean = torch.cat([images(30).x, images(10, seed=2).x]).flatten(1).mean(0)
    torch.testing.assert_close(model.bias[:9].sigmoid().detach(), mean)
    assert not model.bias[9:].any()


def test_noise_corrupts_the_images():
    model = machine(0, noise=lambda x, rng: torch.zeros_like(x))
    (loss,) = model.losses(images(), None, Rng(0))
    expected = -model.log_prob(torch.zeros(1, *SHAPE), rng=Rng(0)).value
    assert float(loss.metrics["nll"]) == pytest.approx(float(expected.detach()), abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 8, 8), {}, "64 pixels and 0 hidden units are too many to enumerate: at most 20 units in all"),
        ((1, 4, 4), {"hidden": 5}, "16 pixels and 5 hidden units are too many"),
        (SHAPE, {"hidden": -1}, "hidden must be at least 0"),
        (SHAPE, {"persistent": 0}, "persistent must be at least 1"),
        (SHAPE, {"gradient": "mean"}, "gradient must be exact or gibbs, not 'mean'"),
    ],
)
def test_what_cannot_be_is_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        Boltzmann(shape, **settings)


def trainer(folder, epochs=2, gradient="gibbs", lr=0.1):
    torch.manual_seed(0)
    data = patches(side=3, per_image=1)
    train, valid = data.split("train"), data.split("valid")
    model = Boltzmann(SHAPE, 2, gradient=gradient)
    model.prepare([train.batch(torch.arange(len(train)))])
    settings = {"device": Device("cpu", threads=1), "folder": folder, "epochs": epochs, "batch_size": 100, "seed": 1}
    return Trainer(model, train, valid, partial(torch.optim.SGD, lr=lr), schedule=Constant(), **settings)


@pytest.mark.parametrize("steps", [3, 12, 17])
def test_chains_go_on_where_they_were_stopped(tmp_path, steps):
    whole, first = trainer(tmp_path / "whole"), trainer(tmp_path / "parts")
    assert whole.fit() is None
    count = itertools.count()
    assert first.fit(lambda: "told" if next(count) >= steps else None) == "told"
    second = trainer(tmp_path / "parts")
    second.restore(checkpoint.load(tmp_path / "parts/last.pt"))
    assert second.fit() is None
    ends = whole.model.state_dict(), second.model.state_dict()
    assert "chains" in ends[0]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not torch.equal(ends[0]["chains"], trainer(tmp_path).model.chains)


@pytest.mark.parametrize("gradient", ["exact", "gibbs"])
def test_learning_either_way_beats_independent_pixels(tmp_path, gradient):
    run = trainer(tmp_path, epochs=6, gradient=gradient, lr=0.3)
    before = float(run.model.validate(run.valid_source.batch(torch.arange(100)), Rng(0))["loss"].detach())
    run.fit()
    assert run.metrics["val/loss"] < before - 0.5
    assert run.metrics["train/cosine"] > 0.5
