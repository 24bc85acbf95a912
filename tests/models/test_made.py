"""Fully visible belief nets are what they say: ordered, summing to one, and drawn from as their likelihood has it."""

import itertools
import math
import time

import pytest
import torch
from scipy.stats import chi2

from aectl.data.noise import Masking
from aectl.models.base import Batch, Samples, Scores, Stage
from aectl.models.made import MADE, log_mixture
from aectl.models.nade import NADE
from aectl.rng import Rng

SMALL = (1, 3, 3)
NETS = {
    "fvsbn": lambda shape: MADE(shape, []),
    "made": lambda shape: MADE(shape, [60]),
    "made, no direct links": lambda shape: MADE(shape, [60], direct=False),
    "made, deep": lambda shape: MADE(shape, [60, 70], activation="tanh"),
    "made, random": lambda shape: MADE(shape, [60, 60], orderings="random", direct=False),
    "made, masks": lambda shape: MADE(shape, [60, 60], masks=4),
    "made, orders": lambda shape: MADE(shape, [60], masks=3, orderings="several"),
    "fvsbn, orders": lambda shape: MADE(shape, [], masks=3, orderings="several"),
    "nade": lambda shape: NADE(shape, 20),
    "nade, relu": lambda shape: NADE(shape, 20, activation="relu", ordering="random"),
    "nade, tanh": lambda shape: NADE(shape, 20, activation="tanh"),
}


@pytest.fixture(params=NETS)
def make(request):
    """A function that makes a net of the shape it is given, with weights large enough to matter."""

    def made(shape):
        torch.manual_seed(0)
        model = NETS[request.param](shape).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2).add_(0.3 * torch.randn_like(weight))
        return model.eval().requires_grad_(False)

    return made


def all_images(shape):
    values = itertools.product((0.0, 1.0), repeat=math.prod(shape))
    return torch.tensor(list(values), dtype=torch.float64).view(-1, *shape)


def each_set(model):
    return torch.arange(model.sets).split(1)


def places(model, which):
    return model.places if isinstance(model, NADE) else model.degrees(which)[0]


def test_a_logit_depends_on_the_pixels_before_it_alone(make):
    model = make(SMALL)
    x = Rng(0).bernoulli(torch.full((9,), 0.5, dtype=torch.float64))
    for which in each_set(model):
        jacobian = torch.autograd.functional.jacobian(lambda v, m=which: model.logits(v[None], m)[0], x)
        order = places(model, which).argsort()
        sorted_ = jacobian[order][:, order]
        assert torch.equal(sorted_, sorted_.tril(-1))
        # A mask that cuts too much would pass as well: the last pixel sees all others.
        assert (sorted_[-1, :-1] != 0).all()


def test_pixels_behind_may_be_anything(make):
    model = make(SMALL)
    a, b = all_images(SMALL).flatten(1)[:40], all_images(SMALL).flatten(1)[-40:]
    for which in each_set(model):
        order = places(model, which).argsort()
        for i in range(9):
            mixed = a.clone()
            mixed[:, order[i:]] = b[:, order[i:]]
            same = order[: i + 1]
            assert torch.equal(model.logits(mixed, which)[:, same], model.logits(a, which)[:, same])


def test_probabilities_of_all_images_sum_to_one(make):
    model = make(SMALL)
    score = model.log_prob(all_images(SMALL), rng=Rng(0))
    assert (score.kind, score.of) == ("exact", "binary pixels")
    assert float(score.value.exp().sum()) == pytest.approx(1, abs=1e-9)
    for part in model.log_probs(all_images(SMALL)):
        assert float(part.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_log_p_is_the_sum_of_the_logs_of_the_conditionals(make):
    model = make(SMALL)
    x = all_images(SMALL)[::7]
    parts = []
    for which in each_set(model):
        p = model.logits(x.flatten(1), which).sigmoid()
        parts.append(torch.where(x.flatten(1) == 1, p, 1 - p).log().sum(1))
    expected = torch.stack(parts).exp().mean(0).log()
    assert torch.allclose(model.log_prob(x, rng=Rng(0)).value, expected)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_come_as_often_as_the_likelihood_says(make, temperature):
    shape, n = (1, 2, 3), 20_000
    model = make(shape)
    x = all_images(shape)
    logits = torch.stack([model.logits(x.flatten(1), which) / temperature for which in each_set(model)])
    signs = 2 * x.flatten(1) - 1
    expected = n * (signs * logits).sigmoid().log().sum(2).exp().mean(0)
    if temperature == 1:
        assert torch.allclose(expected, n * model.log_prob(x, rng=Rng(0)).value.exp())
    drawn = model.sample(n, rng=Rng(3), temperature=temperature).flatten(1)
    cells = (drawn @ (2.0 ** torch.arange(5, -1, -1, dtype=torch.float64))).long()
    found = torch.bincount(cells, minlength=64).double()
    # Images too rare for the approximation count as one.
    rare = expected < 10
    found, expected = (torch.cat([c[~rare], c[rare].sum()[None]]) for c in (found, expected))
    statistic = float(((found - expected).square() / expected.clamp_min(1e-9)).sum())
    assert statistic < chi2.ppf(0.999, len(found) - 1)


def test_drawing_pixel_by_pixel_with_whole_passes_gives_the_same_images(make):
    shape = (2, 4, 5)
    model = make(shape)
    thresholds = Rng(1).uniform(30, 40).logit().double()
    for which in each_set(model):
        x = torch.zeros(30, 40, dtype=torch.float64)
        for pixel in places(model, which).argsort():
            x[:, pixel] = (thresholds[:, pixel] < model.logits(x, which)[:, pixel]).double()
        assert torch.equal(model.ancestral(thresholds, which), x)


@torch.no_grad()
def test_drawing_costs_a_few_passes_and_not_one_for_each_of_784_pixels():
    model = MADE((1, 28, 28), [1000])
    x = Rng(0).uniform(1000, 1, 28, 28).round()
    began = time.process_time()
    model.log_prob(x, rng=Rng(0))
    between = time.process_time()
    model.sample(1000, rng=Rng(0))
    assert time.process_time() - between < 60 * (between - began)


def test_at_temperature_zero_each_pixel_is_the_likelier_one(make):
    model = make(SMALL)
    x = model.sample(50, rng=Rng(0), temperature=0)
    assert len(x.unique(dim=0)) <= model.sets
    likelier = [((model.logits(x.flatten(1), which) > 0) == (x.flatten(1) == 1)).all(1) for which in each_set(model)]
    assert torch.stack(likelier).any(0).all()


def test_samples_are_binary_images_and_repeat_by_seed(make):
    model = make((3, 4, 2)).float()
    assert isinstance(model, Samples)
    assert isinstance(model, Scores)
    x = model.sample(1203, rng=Rng(0))
    assert x.shape == (1203, 3, 4, 2)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(x, model.sample(1203, rng=Rng(0)))
    assert not torch.equal(x, model.sample(1203, rng=Rng(1)))


def test_an_ensemble_is_the_logsumexp_of_whole_likelihoods_and_no_mean_of_logits():
    torch.manual_seed(0)
    model = MADE(SMALL, [30], masks=5, orderings="several").double().requires_grad_(False)
    model.direct.weight.mul_(8)
    x = all_images(SMALL)
    parts = model.log_probs(x)
    assert len(model.places.unique(dim=0)) == 5
    assert torch.allclose(log_mixture(parts), parts.exp().mean(0).log())
    logits = torch.stack([model.logits(x.flatten(1), which) for which in each_set(model)]).mean(0)
    averaged = ((2 * x.flatten(1) - 1) * logits).sigmoid().log().sum(1)
    # The trap: each pixel then sees all others, and the result is no density.
    assert abs(float(averaged.exp().sum()) - 1) > 0.02
    metrics = model.validate(Batch(x.float().double(), None, None), Rng(0))
    assert torch.allclose(metrics["loss"], -model.log_prob(x, rng=Rng(0)).value.mean())
    assert torch.allclose(metrics["one_set"], -parts.mean())
    assert metrics["loss"] < metrics["one_set"]


def test_each_step_descends_the_likelihood_of_one_set(batch):
    model = MADE((1, 8, 8), [30], masks=3, orderings="several")
    x = batch.x.round()
    parts = -model.log_probs(x).mean(1)
    seen = [next(model.losses(Batch(x, batch.y, batch.index), Stage(), Rng(i))).value for i in range(30)]
    which = [int((parts - value).abs().argmin()) for value in seen]
    assert all(torch.allclose(value, parts[i]) for value, i in zip(seen, which, strict=True))
    assert set(which) == {0, 1, 2}


def test_masks_follow_from_their_seed_and_travel_with_the_weights():
    one, same, other = (MADE(SMALL, [20, 10], masks=2, orderings="several", mask_seed=seed) for seed in (1, 1, 2))
    for name in ("places", "degrees_0", "degrees_1"):
        assert torch.equal(one.get_buffer(name), same.get_buffer(name))
        assert not torch.equal(one.get_buffer(name), other.get_buffer(name))
    other.load_state_dict(one.state_dict())
    x = all_images(SMALL).float()
    assert torch.equal(other.log_prob(x, rng=Rng(0)).value, one.log_prob(x, rng=Rng(0)).value)


def test_degrees_leave_no_unit_without_an_input_or_an_output():
    model = MADE((1, 6, 6), [200, 200], masks=6, orderings="several")
    for which in each_set(model):
        _, first, second = model.degrees(which)
        assert first.min() >= 0
        assert max(first.max(), second.max()) <= 34
        assert second.min() >= first.min()
        # Without shape all degrees are equally likely.
        assert first.double().mean() == pytest.approx(17, abs=3)


def test_the_biases_begin_at_the_mean_of_the_training_images(make):
    model = make((1, 4, 4))
    x = Rng(0).uniform(50, 1, 4, 4).double() ** 2
    x[:, 0, 0, 0], x[:, 0, 0, 1] = 0, 1
    model.prepare([Batch(part, None, None) for part in x.split(20)])
    p = model.bias.sigmoid()
    assert torch.allclose(p[2:], x.flatten(1).mean(0)[2:])
    assert p[:2].tolist() == pytest.approx([0.001, 0.999])


def test_grey_pixels_are_drawn_anew_and_binary_ones_are_the_data(make):
    model = make((1, 8, 8)).float()
    x = Rng(0).uniform(20, 1, 8, 8)
    first, second = (model.log_prob(x, rng=Rng(i)) for i in (0, 1))
    assert first.kind == "exact"
    assert not torch.equal(first.value, second.value)
    assert torch.equal(first.value, model.log_prob(model.observe(x, Rng(0)), rng=Rng(5)).value)


def test_a_cross_entropy_of_grey_pixels_is_called_no_likelihood():
    model = MADE(SMALL, [], binarise=False)
    x = Rng(0).uniform(20, 1, 3, 3)
    assert model.log_prob(x, rng=Rng(0))[1:] == ("no likelihood", "grey pixels")
    assert model.log_prob(x.round(), rng=Rng(0))[1:] == ("exact", "binary pixels")


def test_noise_hides_pixels_from_the_conditionals_in_training_alone(batch):
    model = MADE((1, 8, 8), [10], noise=Masking(1.0))
    x = batch.x.round()
    whole = Batch(x, batch.y, batch.index)
    (loss,) = model.losses(whole, Stage(), Rng(0))
    blind = model.nll(x, torch.zeros_like(x), torch.zeros(1, dtype=torch.int64)).mean()
    assert torch.allclose(loss.value, blind)
    assert torch.allclose(model.validate(whole, Rng(0))["loss"], -model.log_prob(x, rng=Rng(0)).value.mean())
    assert not torch.allclose(model.validate(whole, Rng(0))["loss"], blind)


@pytest.mark.parametrize(
    "model", [lambda: MADE(SMALL, []), lambda: MADE(SMALL, [40], direct=False), lambda: NADE(SMALL, 20)]
)
def test_it_learns_that_pixels_agree(model):
    torch.manual_seed(0)
    model = model()
    x = (torch.arange(64) % 2).float().view(-1, 1, 1, 1).expand(-1, *SMALL)
    batch = Batch(x, torch.zeros(64), torch.arange(64))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(300):
        (loss,) = model.losses(batch, Stage(), Rng(0))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    # All black or all white: one bit, of the nine that the pixels have alone.
    assert float(loss.value.detach()) == pytest.approx(math.log(2), abs=0.05)
    drawn = model.sample(200, rng=Rng(1)).flatten(1).mean(1)
    assert float(((drawn == 0) | (drawn == 1)).float().mean()) > 0.95
    assert 0.4 < float(drawn.mean()) < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": [0]}, "hidden must be at least 1"),
        ({"hidden": [], "direct": False}, "direct must be true"),
        ({"masks": 0}, "masks must be at least 1"),
        ({"orderings": "spiral"}, "orderings must be raster, random or several, not 'spiral'"),
        ({"activation": "softmax"}, "unknown activation 'softmax'"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MADE(SMALL, **arguments)


def test_an_image_of_one_pixel_has_nothing_to_see():
    model = MADE((1, 1, 1), [3, 3], masks=2)
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert float(model.log_prob(x, rng=Rng(0)).value.detach().exp().sum()) == pytest.approx(1)
    assert model.sample(4, rng=Rng(0)).shape == (4, 1, 1, 1)
