"""The deep belief network against sums over all its states; its bound lies below, and each stage moves its layer."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch.nn.functional import logsigmoid

from aectl.data.datasets import Source
from aectl.data.noise import Gaussian
from aectl.models.base import Batch, Decodes, Encodes, Normalises, Reconstructs, Samples, Scores, Walks
from aectl.models.dbn import DBN
from aectl.models.partition import enumerate_states, mean_to_bias
from aectl.rng import Rng
from aectl.training import checkpoint
from aectl.training.device import Device
from aectl.training.schedule import Constant
from aectl.training.trainer import Trainer

SHAPE = (1, 3, 3)


def network(widths=(4, 3), scale=1.0, **others):
    """A network with large random weights, biases and offsets."""
    torch.manual_seed(0)
    model = DBN(SHAPE, list(widths), **others)
    rng = Rng(0)
    with torch.no_grad():
        for layer in model.layers:
            for part in layer.parameters():
                part.copy_(scale * rng.normal(*part.shape))
            if layer.is_centred:
                layer.visible_offset.copy_(rng.uniform(len(layer.visible_offset)))
                layer.hidden_offset.copy_(rng.uniform(len(layer.hidden_offset)))
    return model.requires_grad_(False)


def images(n=40, seed=1):
    return Batch(Rng(seed).uniform(n, *SHAPE), torch.arange(n), torch.arange(n))


def all_images():
    return enumerate_states(9, torch.zeros(())).view(-1, *SHAPE)


def every(units):
    return enumerate_states(units, torch.zeros(()).double())


def conditional(below, above, bias, weight):
    logits = (bias + above @ weight)[:, None]
    return (below * logsigmoid(logits) + (1 - below) * logsigmoid(-logits)).sum(2)


def summed(model):
    """Log p(x) of all images [512] and the mean of log p(x, h) - log q(h|x), h over the layers below the top: by sums.

    Written with the biases that the layers have without offsets, in float64.
    """
    parts = [(layer.weight.double(), *(b.double() for b in layer.biases())) for layer in model.layers]
    weight, bias, top_bias = parts[-1]
    h, g = every(weight.shape[1]), every(weight.shape[0])
    log_p = ((h @ bias)[:, None] + (g @ top_bias)[None] + h @ weight.T @ g.T).logsumexp(1)
    log_p = log_p - log_p.logsumexp(0)
    bound = log_p
    for weight, bias, up_bias in reversed(parts[:-1]):
        below = every(weight.shape[1])
        down = conditional(below, h, bias, weight)
        up = conditional(h, below, up_bias, weight.T)  # [B, A]
        log_p = (down + log_p[:, None]).logsumexp(0)
        bound = (up.exp() * (down.T + bound - up)).sum(1)
        h = below
    return log_p, bound


@pytest.mark.parametrize("centring", [0.0, 0.3])
@pytest.mark.parametrize("widths", [(4, 3), (3, 4, 2)])
def test_the_bound_is_what_it_should_be_and_lies_below_the_likelihood(widths, centring):
    model = network(widths, centring=centring, draws=1000)
    log_p, bound = summed(model)
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-5)
    assert (bound < log_p + 1e-6).all()
    assert float((log_p - bound).mean()) > 0.1  # no matter of course: q is not exact here
    (way, *_) = model.log_partition(rng=Rng(0))
    found = -model.energy(all_images()).double() - way.value
    assert way.kind == "bound"
    torch.testing.assert_close(found, bound, atol=0.5, rtol=0)
    assert float((found - bound).mean()) == pytest.approx(0, abs=0.02)
    assert (found < log_p).float().mean() > 0.95
    assert float((found - log_p).max()) < 0.1


@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_an_exact_posterior_makes_the_bound_exact_whatever_is_drawn(centring):
    # Above a Boltzmann machine its own transpose: h_1 has the prior that makes q(h_1|x) the posterior.
    model = network((4, 9), centring=centring, draws=1)
    low, top = model.layers
    for ours, theirs in (
        ("weight", low.weight.T),
        ("visible_bias", low.hidden_bias),
        ("hidden_bias", low.visible_bias),
    ):
        getattr(top, ours).copy_(theirs)
    top.visible_offset.copy_(low.hidden_offset)
    top.hidden_offset.copy_(low.visible_offset)
    exact = low.log_prob(all_images(), rng=Rng(0)).value
    bound = -model.energy(all_images()) - model.log_partition(rng=Rng(0))[0].value
    torch.testing.assert_close(bound, exact, atol=1e-4, rtol=1e-4)
    assert float(bound.double().exp().sum()) == pytest.approx(1, abs=1e-4)


def test_many_draws_bring_the_bound_to_the_likelihood():
    model = network((4, 3))
    log_p, bound = summed(model)
    few, many = (model.log_prob(all_images(), rng=Rng(0), samples=k) for k in (1, 2000))
    assert (few.kind, few.of) == ("bound", "binary pixels")
    assert float(few.value.mean()) == pytest.approx(float(bound.mean()), abs=0.3)
    torch.testing.assert_close(many.value.double(), log_p, atol=0.5, rtol=0)
    assert float((many.value - log_p).mean()) == pytest.approx(0, abs=0.02)


def test_an_estimated_constant_makes_an_estimate_of_the_bound():
    model = network((25, 30), scale=0.1, temperatures=100)
    forward, backward = model.log_partition(rng=Rng(0))
    assert (forward.kind, backward.kind) == ("bound by AIS", "bound by reverse AIS")
    assert forward.value == pytest.approx(backward.value, abs=0.5)
    assert model.log_prob(images(3).x, rng=Rng(0), samples=2).kind == "estimate"


def test_an_image_has_one_energy():
    model, x = network(), all_images()[:20]
    assert torch.equal(model.energy(x), model.energy(x))


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_samples_come_as_often_as_their_probability_says(temperature):
    model, n = network((4, 3), scale=0.7, sample_steps=60), 40_000
    drawn = model.sample(n, rng=Rng(0), temperature=temperature)
    assert drawn.shape == (n, *SHAPE)
    x = Rng(1).bernoulli(drawn)  # a sample is the mean of the pixels
    for part in model.top.parameters():
        part /= temperature
    p = summed(model)[0].exp()
    codes = (x.flatten(1).long() << torch.arange(9)).sum(1)
    chi_square = float((n * (codes.bincount(minlength=512) / n - p).square() / p).sum())
    assert chi_square < 511 + 4 * math.sqrt(2 * 511)


def test_it_can_do_what_it_says_and_does_not_walk():
    model, x = network(), images().x
    for ability in (Encodes, Decodes, Reconstructs, Samples, Scores, Normalises):
        assert isinstance(model, ability)
    # Up by q and down again is no step that leaves p(x) as it is.
    assert not isinstance(model, Walks)
    assert model.encode(x).shape == (40, model.code)
    assert model.code == 3


def test_codes_go_up_through_the_means_and_down_again():
    model, x = network((4, 3), centring=0.0), images().x
    (one, two), h = model.layers, x.flatten(1)
    code = ((h @ one.weight.T + one.hidden_bias).sigmoid() @ two.weight.T + two.hidden_bias).sigmoid()
    torch.testing.assert_close(model.encode(x), code)
    down = ((code @ two.weight + two.visible_bias).sigmoid() @ one.weight + one.visible_bias).sigmoid()
    torch.testing.assert_close(model.decode(code), down.view(-1, *SHAPE))
    torch.testing.assert_close(model.reconstruct(x), down.view(-1, *SHAPE))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def descend(model, batch, stage, rng, lr=0.1):
    """One step of plain gradient descent in the group that the stage trains."""
    for loss in model.losses(batch, stage, rng):
        params = list(model.groups(stage)["model"].params)
        for part, gradient in zip(params, torch.autograd.grad(loss.value, params), strict=True):
            part.data -= lr * gradient


def test_each_stage_moves_its_layer_and_prepares_the_next():
    model = network((4, 3, 2)).requires_grad_(True)
    for k, stage in enumerate(model.stages()):
        before = state(model)
        descend(model, images(), stage, Rng(k))
        moved = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
        own = {name for name in before if name.startswith(f"layers.{k}.")} - {f"layers.{k}.mean"}
        own -= {f"layers.{k}.visible_offset"}
        following = {f"layers.{k + 1}.{name}" for name in ("mean", "visible_offset", "visible_bias")}
        assert moved == (own | following if k < 2 else own)
    assert k == 2


def test_the_next_layer_begins_with_the_mean_of_what_it_will_see():
    model, batch = network((4, 3), centring=0.3).requires_grad_(True), images()
    low, top = model.layers
    before = top.mean.clone()
    for _ in range(1000):
        model.initialise_next_layer(0, batch.x)
    torch.testing.assert_close(top.mean, low.encode(batch.x).mean(0).detach(), atol=1e-3, rtol=0)
    assert not torch.allclose(before, top.mean, atol=0.05)
    torch.testing.assert_close(top.visible_bias.detach(), mean_to_bias(top.mean))
    torch.testing.assert_close(top.visible_offset, top.mean)


def test_a_layer_is_trained_on_draws_of_those_below():
    model, batch, rng = network((4, 3, 2)), images(), Rng(5)
    one, two, three = model.layers
    h = rng.bernoulli(one.encode(rng.bernoulli(batch.x)))
    expected = two.encode(h)
    found = model.layer_input(batch.x, 2, Rng(5))
    torch.testing.assert_close(found.flatten(1), expected)
    # And its loss is that of its machine on these.
    (stage,) = [one for one in model.stages() if one.name == "layer_3"]
    (loss,) = network((4, 3, 2)).losses(batch, stage, Rng(5))
    rng = Rng(5)
    below = model.layer_input(batch.x, 2, rng)
    (own,) = three.losses(batch._replace(x=below), stage, rng)
    assert torch.equal(loss.value, own.value)


def test_noise_corrupts_the_images_in_every_stage():
    clean = network((4, 3), noise=Gaussian(0.0))
    noisy = network((4, 3), noise=lambda x, rng: torch.zeros_like(x))
    black = images()._replace(x=torch.zeros(40, *SHAPE))
    for stage in clean.stages():
        (one,), (other,) = clean.losses(black, stage, Rng(0)), noisy.losses(images(), stage, Rng(0))
        assert one.metrics["energy"] == pytest.approx(float(other.metrics["energy"]), abs=1.0)


def test_preparation_meets_the_mean_of_the_training_images():
    model = DBN(SHAPE, [4, 3])
    model.prepare(iter([images(30), images(10, seed=2)]))
    mean = torch.cat([images(30).x, images(10, seed=2).x]).flatten(1).mean(0)
    torch.testing.assert_close(model.layers[0].mean, mean)
    assert model.layers[1].mean.unique().tolist() == [0.5]


def test_validation_judges_the_top_and_changes_nothing():
    model = network((4, 3))
    before = state(model)
    metrics = model.validate(images(), Rng(0))
    assert metrics["pseudo_nll"] == metrics["pseudo_nll_2"]
    assert set(metrics) == {"pseudo_nll", "mse", "pseudo_nll_1", "pseudo_nll_2", "mse_1", "mse_2"}
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_layers_have_the_runs_epochs_or_their_own():
    plans = {None: [None, None], 3: [3, 3], (2, 5): [2, 5]}
    for given, expected in plans.items():
        given = list(given) if isinstance(given, tuple) else given
        assert [stage.epochs for stage in DBN(SHAPE, [4, 3], layer_epochs=given).stages()] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": [4]}, "at least two layers"),
        ({"widths": [4, 0]}, "widths must be at least 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"layer_epochs": [1]}, "layer_epochs must be a number, or a list of 2"),
        ({"layer_epochs": 0}, "layer_epochs must be at least 1"),
        ({"centring": 2.0}, "centring"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DBN(SHAPE, **{"widths": [4, 3], **settings})


def trainer(folder):
    torch.manual_seed(0)
    images = Source(Rng(0).uniform(96, *SHAPE), torch.arange(96) % 10, torch.arange(96), 1.0, 10)
    settings = {"device": Device("cpu", threads=1), "folder": folder, "epochs": 2, "batch_size": 32, "seed": 1}
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Trainer(DBN(SHAPE, [4, 3], persistent=5), images, images, sgd, schedule=Constant(), **settings)


@pytest.mark.parametrize("steps", [2, 6, 8])
def test_chains_and_stages_go_on_where_they_were_stopped(tmp_path, steps):
    whole, first = trainer(tmp_path / "whole"), trainer(tmp_path / "parts")
    assert whole.fit() is None
    count = itertools.count()
    assert first.fit(lambda: "told" if next(count) >= steps else None) == "told"
    second = trainer(tmp_path / "parts")
    second.restore(checkpoint.load(tmp_path / "parts/last.pt"))
    assert second.fit() is None
    ends = state(whole.model), state(second.model)
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    for k in (0, 1):
        assert not torch.equal(ends[0][f"layers.{k}.chains"], state(trainer(tmp_path).model)[f"layers.{k}.chains"])


@pytest.mark.slow
def test_learning_makes_the_bound_rise():
    torch.manual_seed(0)
    patterns = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1]])
    x = patterns[torch.arange(99) % 3].view(-1, *SHAPE)
    batch = Batch(x, torch.zeros(99), torch.arange(99))
    model, rng = DBN(SHAPE, [6, 6], draws=50), Rng(0)
    model.prepare([batch])

    def bound():
        with torch.no_grad():
            return float((-model.energy(x) - model.log_partition(rng=Rng(0))[0].value).mean())

    before = bound()
    for stage in model.stages():
        for _ in range(600):
            descend(model, batch, stage, rng, lr=0.2)
    assert before < -5.5
    assert bound() > -2.5
