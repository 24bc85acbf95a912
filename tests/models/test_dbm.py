"""The deep Boltzmann machine against sums over all its states; its bound lies below, and touches where q is exact."""

import itertools
import math
from functools import partial

import pytest
import torch

from aectl.data.datasets import Source
from aectl.models.base import Batch, Decodes, Encodes, Normalises, Reconstructs, Samples, Scores, Walks
from aectl.models.dbm import DBM
from aectl.models.partition import enumerate_states
from aectl.rng import Rng
from aectl.training import checkpoint
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.trainer import Trainer

SHAPE = (1, 3, 3)
WIDTHS = (4, 3)


def machine(scale=0.7, widths=WIDTHS, **others):
    """A machine with random weights, biases and offsets."""
    torch.manual_seed(0)
    model, rng = DBM(SHAPE, list(widths), **{"mean_field": 50, **others}), Rng(0)
    inner = model.machine
    with torch.no_grad():
        for part in inner.parameters():
            part.copy_(scale * rng.normal(*part.shape))
        if inner.is_centred:
            inner.visible_offset.copy_(rng.uniform(len(inner.visible_offset)))
            inner.hidden_offset.copy_(rng.uniform(widths[0]))
    return model


def images(n=40, seed=1):
    return Batch(Rng(seed).uniform(n, *SHAPE), torch.arange(n), torch.arange(n))


def all_images():
    return enumerate_states(9, torch.zeros(())).view(-1, *SHAPE)


def joint(model):
    """Log p(v, h, g) of all states, [512, 16, 8], from the centred energy itself, in float64."""
    inner = model.machine
    weight, outer, c = (part.detach().double() for part in (inner.weight, inner.visible_bias, inner.hidden_bias))
    (w, u), (b, d) = weight.split([9, 3], 1), outer.split([9, 3])
    v_offset, g_offset = inner.visible_offset.double().split([9, 3])
    v, h, g = (
        enumerate_states(units, torch.zeros(()).double()) - offset
        for units, offset in ((9, v_offset), (4, inner.hidden_offset.double()), (3, g_offset))
    )
    minus_energy = (v @ b)[:, None, None] + (h @ c)[None, :, None] + (g @ d)[None, None]
    minus_energy = minus_energy + (v @ w.T @ h.T)[:, :, None] + (h @ u @ g.T)[None]
    return minus_energy - minus_energy.flatten().logsumexp(0)


def log_probabilities(model):
    return joint(model).flatten(1).logsumexp(1)


def bounds(model, x=None):
    way = model.log_partition(rng=Rng(0))[0]
    assert way.kind == "bound"
    with torch.no_grad():
        return -model.energy(all_images() if x is None else x).double() - way.value


def cut_top(model):
    """Take the uppermost layer off the others: q is exact then."""
    with torch.no_grad():
        model.links.zero_()
    return model


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_bound_lies_below_the_likelihood(centring):
    model = machine(centring=centring)
    log_p, bound = log_probabilities(model), bounds(model)
    assert (bound <= log_p + 1e-5).all()
    assert 0.003 < float((log_p - bound).mean()) < 0.5
    assert float(bound.exp().sum()) < 1


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_bound_is_the_likelihood_where_the_mean_field_is_exact(centring):
    model = cut_top(machine(centring=centring))
    bound = bounds(model)
    torch.testing.assert_close(bound, log_probabilities(model), atol=2e-5, rtol=0)
    assert float(bound.exp().sum()) == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_the_bound_is_that_of_the_two_mean_fields():
    model = machine(centring=0.3)
    # E_q[log p(v, h, g)] + H(q), q(h, g) = Π q(h_j) Π q(g_k) from what `encode` says, summed over all states.
    q = model.encode(all_images()).double()
    terms = []
    for units, means in ((4, q[:, :4]), (3, q[:, 4:])):
        s = enumerate_states(units, torch.zeros(()).double())
        terms.append((s[None] * means.log()[:, None] + (1 - s[None]) * (1 - means).log()[:, None]).sum(2))
    log_q = terms[0][:, :, None] + terms[1][:, None]
    expected = (log_q.exp() * (joint(model) - log_q)).sum((1, 2))
    torch.testing.assert_close(bounds(model), expected, atol=1e-4, rtol=0)


def test_every_sweep_raises_the_bound():
    model, found = machine(scale=1.5), []
    for sweeps in (1, 2, 4, 8, 50):
        model.sweeps = sweeps
        found.append(bounds(model))
    for before, behind in itertools.pairwise(found):
        assert (behind >= before - 1e-5).all()
    assert float((found[-1] - found[0]).max()) > 0.01


@torch.no_grad()
def test_the_mean_field_is_a_fixed_point():
    model, x = machine(mean_field=200, centring=0.3), all_images()[:50]
    inner = model.machine
    h, g = model.encode(x).split([4, 3], 1)
    (w, u), (v_offset, g_offset) = inner.weight.split([9, 3], 1), inner.visible_offset.split([9, 3])
    seen = (x.flatten(1) - v_offset) @ w.T + (g - g_offset) @ u.T + inner.hidden_bias
    torch.testing.assert_close(h, seen.sigmoid(), atol=1e-5, rtol=0)
    above = (h - inner.hidden_offset) @ u + inner.visible_bias[9:]
    torch.testing.assert_close(g, above.sigmoid(), atol=1e-4, rtol=0)


def test_draws_of_the_uppermost_layer_bring_the_bound_to_the_likelihood():
    model = machine(centring=0.3)
    log_p, bound = log_probabilities(model), bounds(model)
    few, many = (model.log_prob(all_images(), rng=Rng(0), samples=k) for k in (1, 1000))
    assert (many.kind, many.of) == ("bound", "binary pixels")
    torch.testing.assert_close(many.value.double(), log_p, atol=0.1, rtol=0)
    # With the middle layer summed out, already one draw is more than the mean field's bound, in the mean.
    assert float(bound.mean()) < float(few.value.mean()) + 0.03 < float(log_p.mean()) + 0.06


def test_where_nothing_can_be_enumerated_the_constant_is_estimated_both_ways():
    model = machine(0.1, widths=(25, 30), temperatures=200)
    forward, backward = model.log_partition(rng=Rng(0))
    assert (forward.kind, backward.kind) == ("bound by AIS", "bound by reverse AIS")
    assert forward.value == pytest.approx(backward.value, abs=0.5)
    assert model.log_prob(images(3).x, rng=Rng(0), samples=2).kind == "estimate"


def test_annealing_finds_the_constant_of_all_layers():
    exact, forward, backward = machine().log_partition(rng=Rng(0))
    assert forward.value == pytest.approx(exact.value, abs=0.1)
    assert backward.value == pytest.approx(exact.value, abs=0.1)


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_gradient_is_the_difference_of_statistics(centring):
    model, batch = machine(centring=centring, persistent=6, steps=2), images()
    inner, rng, before = model.machine, Rng(4), model.machine.chains.clone()
    m, offset = inner.visible_offset.clone(), inner.hidden_offset.clone()
    with torch.no_grad():
        data = model.infer(model.observe(batch.x, rng))
        chains = inner.gibbs(before, 2, rng)
        moments = []
        for u in (data, chains):
            h = ((u - m) @ inner.weight.T + inner.hidden_bias).sigmoid()
            moments.append(((h - offset).T @ (u - m) / len(u), (u - m).mean(0), (h - offset).mean(0)))
    next(iter(model.losses(batch, None, Rng(4)))).value.backward()
    parts = (inner.weight, inner.visible_bias, inner.hidden_bias)
    for part, of_data, of_model in zip(parts, *moments, strict=True):
        torch.testing.assert_close(part.grad, of_model - of_data, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_the_bound_within_sampling_error():
    model, n = machine(0.4, persistent=20_000, steps=60, mean_field=300, centring=0.3), 40
    batch = images(n)._replace(x=images(n).x.round())
    parts = list(model.parameters())
    found = torch.autograd.grad(next(iter(model.losses(batch, None, Rng(0)))).value, parts)
    # With q at its best the gradient of the bound is that with q held fixed; the constant's comes from all states.
    v_g = torch.cat(
        [all_images().flatten(1).repeat_interleave(8, 0), enumerate_states(3, torch.zeros(())).repeat(512, 1)], 1
    )
    log_z = (-model.machine.energy(v_g)).logsumexp(0)
    exact = torch.autograd.grad(model.machine.energy(model.infer(batch.x)).mean() + log_z, parts)
    for ours, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, wanted, atol=0.02, rtol=0)
    assert float(torch.cat([part.flatten() for part in exact]).norm()) > 0.5


def test_offsets_that_follow_leave_the_distribution_as_it_is():
    model = machine(centring=0.3)
    before, inner = log_probabilities(model), model.machine
    old = inner.visible_offset.clone(), inner.hidden_offset.clone()
    data = torch.cat([images().x.round().flatten(1), Rng(3).uniform(40, 3)], 1)
    hidden = inner.inputs(data).sigmoid().mean(0).detach()
    model.update_offsets(data)
    torch.testing.assert_close(log_probabilities(model), before, atol=1e-4, rtol=0)
    torch.testing.assert_close(inner.hidden_offset, old[1] + 0.3 * (hidden - old[1]))
    torch.testing.assert_close(inner.visible_offset[9:], old[0][9:] + 0.3 * (data[:, 9:].mean(0) - old[0][9:]))
    assert torch.equal(inner.visible_offset[:9], old[0][:9])


def test_there_are_no_offsets_without_centring():
    model = machine(centring=0.0)
    (loss,) = model.losses(images(), None, Rng(0))
    assert torch.isfinite(loss.value)
    assert not model.machine.visible_offset.any()
    assert not model.machine.hidden_offset.any()


@torch.no_grad()
def test_samples_come_as_often_as_their_probability_says():
    model, n = machine(sample_steps=80), 40_000
    drawn = model.sample(n, rng=Rng(0))
    assert drawn.shape == (n, *SHAPE)
    x, p = Rng(1).bernoulli(drawn), log_probabilities(model).exp()  # a sample is the mean of the pixels
    codes = (x.flatten(1).long() << torch.arange(9)).sum(1)
    chi_square = float((n * (codes.bincount(minlength=512) / n - p).square() / p).sum())
    assert chi_square < 511 + 4 * math.sqrt(2 * 511)


def test_the_pseudo_likelihood_is_that_of_each_pixel_where_the_bound_is_exact():
    model = cut_top(machine())
    x = images(6).x.round()
    log_p = log_probabilities(model).view(*[2] * 9)  # the last pixel is the first axis
    terms = 0.0
    for image in x.flatten(1).long().flip(1):
        for i in range(9):
            both = [log_p[tuple(torch.cat([image[:i], torch.tensor([k]), image[i + 1 :]]))] for k in (0, 1)]
            terms += torch.stack(both).logsumexp(0) - both[int(image[i])]
    with torch.no_grad():
        data = model.infer(x)
        found = model.pseudo_nll(data, model.bound(data), Rng(0), 5000)
    assert float(found) == pytest.approx(float(terms) / 6, rel=0.02)


def test_it_can_do_what_it_says_and_does_not_walk_on_pixels_alone():
    model, x = machine(), images().x
    for ability in (Encodes, Reconstructs, Samples, Scores, Normalises):
        assert isinstance(model, ability)
    # The state of its chain has hidden units, which an image does not tell.
    assert not isinstance(model, Walks)
    assert not isinstance(model, Decodes)
    assert model.encode(x).shape == (40, model.code)
    assert model.reconstruct(x).shape == x.shape


@torch.no_grad()
def test_a_reconstruction_is_the_mean_of_the_pixels_given_the_first_layer():
    model, x = machine(centring=0.0), images().x
    h = model.encode(x)[:, :4]
    expected = (h @ model.machine.weight[:, :9] + model.machine.visible_bias[:9]).sigmoid()
    torch.testing.assert_close(model.reconstruct(x).flatten(1), expected)


@pytest.mark.parametrize("binarise", ["draw", "threshold"])
def test_preparation_meets_the_mean_of_the_training_images(binarise):
    model = DBM(SHAPE, [4, 3], binarise=binarise)
    model.prepare(iter([images(30), images(10, seed=2)]))
    x = torch.cat([images(30).x, images(10, seed=2).x]).flatten(1)
    mean = (x if binarise == "draw" else x.round()).mean(0)
    inner = model.machine
    torch.testing.assert_close(inner.mean, torch.cat([mean, torch.full((3,), 0.5)]))
    torch.testing.assert_close(inner.visible_offset, inner.mean)
    torch.testing.assert_close(inner.visible_bias.sigmoid()[:9].detach(), mean.clamp(0.001, 0.999))
    assert torch.equal(model.observe(x, Rng(0)), x.round()) == (binarise == "threshold")


def test_noise_corrupts_the_images():
    model = machine(noise=lambda x, rng: torch.zeros_like(x))
    expected = float(model.energy(torch.zeros(1, *SHAPE)).detach())
    (loss,) = model.losses(images(), None, Rng(0))
    # The metric was taken before the step.
    assert float(loss.metrics["energy"]) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_validation_changes_nothing():
    model = machine()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert set(model.validate(images(), Rng(0))) == {"pseudo_nll", "loss", "energy", "mse"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [4]}, "two hidden layers"),
        ({"widths": [4, 0]}, "widths must be at least 1"),
        ({"mean_field": 0}, "mean_field must be at least 1"),
        ({"persistent": 0}, "persistent must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"binarise": "no"}, "binarise must be draw or threshold"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DBM(SHAPE, **{"widths": [4, 3], **settings})


def trainer(folder):
    torch.manual_seed(0)
    source = Source(Rng(0).uniform(96, *SHAPE), torch.arange(96) % 10, torch.arange(96), 1.0, 10)
    settings = {"device": Device("cpu", threads=1), "folder": folder, "epochs": 2, "batch_size": 32, "seed": 1}
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Trainer(DBM(SHAPE, [6, 6], persistent=20), source, source, sgd, schedule=Constant(), **settings)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_chains_and_offsets_go_on_where_they_were_stopped(tmp_path, steps):
    whole, first = trainer(tmp_path / "whole"), trainer(tmp_path / "parts")
    assert whole.fit() is None
    count = itertools.count()
    assert first.fit(lambda: "told" if next(count) >= steps else None) == "told"
    second = trainer(tmp_path / "parts")
    second.restore(checkpoint.load(tmp_path / "parts/last.pt"))
    assert second.fit() is None
    ends, start = (whole.model.state_dict(), second.model.state_dict()), trainer(tmp_path).model.state_dict()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    for name in ("chains", "visible_offset", "hidden_offset", "mean"):
        assert not torch.equal(ends[0][f"machine.{name}"], start[f"machine.{name}"])


def test_learning_makes_the_bound_rise():
    torch.manual_seed(0)
    patterns = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1]])
    x = patterns[torch.arange(99) % 3].view(-1, *SHAPE)
    batch = Batch(x, torch.zeros(99), torch.arange(99))
    model, rng = DBM(SHAPE, [6, 6], mean_field=5), Rng(0)
    model.prepare([batch])
    parts, before = list(model.parameters()), float(bounds(model, x).mean())
    for _ in range(400):
        for loss in model.losses(batch, None, rng):
            for part, gradient in zip(parts, torch.autograd.grad(loss.value, parts), strict=True):
                part.data -= 0.2 * gradient
    # Three images alike would be -log 3 = -1.1; independent pixels are nine times H(1/3) = 5.7.
    assert before < -5.5
    assert float(bounds(model, x).mean()) > -3
    assert float((model.reconstruct(x) - x).square().mean().detach()) < 0.1
