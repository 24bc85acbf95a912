"""NADE's backward, which keeps no hidden layer, has the gradients of the plain recurrence."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from aectl.models.nade import ACTIVATIONS, NADE, Conditionals
from aectl.rng import Rng

SHAPE = (1, 8, 8)
SCALARS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}


def parts(pixels, hidden, n, dtype=torch.float64):
    rng = Rng(0)
    x = rng.bernoulli(torch.full((n, pixels), 0.4))
    w, v = rng.normal(pixels, hidden), rng.normal(pixels, hidden)
    return [part.to(dtype).requires_grad_() for part in (x, w, rng.normal(hidden), v)]


def plain(x, w, c, v, activation):
    a, scores = c.expand(len(x), -1), []
    for i in range(x.shape[1]):
        scores.append(SCALARS[activation](a) @ v[i])
        a = a + x[:, i : i + 1] * w[i]
    return torch.stack(scores, 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(activation):
    assert torch.autograd.gradcheck(Conditionals.apply, (*parts(6, 4, 3), activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_plain_autograd(activation, dtype):
    tensors = parts(50, 17, 20, dtype)
    weights = Rng(1).normal(20, 50).to(dtype)
    found, expected = Conditionals.apply(*tensors, activation), plain(*tensors, activation)
    exact = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-3}
    assert torch.allclose(found, expected, **exact)
    ours, theirs = (torch.autograd.grad((one * weights).sum(), tensors) for one in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, **exact)


def test_images_need_no_gradient():
    x, *weights = parts(6, 4, 3)
    Conditionals.apply(x.detach(), *weights, "sigmoid").sum().backward()
    assert all(weight.grad is not None for weight in weights)


def test_nothing_of_the_size_of_all_hidden_layers_is_kept():
    pixels, hidden, n = 40, 30, 25
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        Conditionals.apply(*parts(pixels, hidden, n), "sigmoid")
    assert sum(kept) == n * pixels + 2 * pixels * hidden + n * hidden


def test_going_back_over_all_pixels_of_a_large_image_loses_nothing_that_counts():
    x, w, c, v = parts(784, 30, 8)
    exact = torch.autograd.grad(Conditionals.apply(x, w, c, v, "sigmoid").sum(), (w, c, v))
    single = [part.detach().float().requires_grad_() for part in (x, w, c, v)]
    rounded = torch.autograd.grad(Conditionals.apply(*single, "sigmoid").sum(), single[1:])
    for one, other in zip(rounded, exact, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-4


@pytest.mark.parametrize("ordering", ["raster", "random"])
def test_it_is_the_published_recurrence_in_its_ordering(batch, ordering):
    torch.manual_seed(0)
    model = NADE(SHAPE, 12, ordering=ordering)
    x = batch.x.round().flatten(1)
    order = model.places.argsort()
    assert torch.equal(order, torch.arange(64)) == (ordering == "raster")
    for k in (0, 1, 20, 63):
        before, pixel = order[:k], order[k]
        h = torch.sigmoid(model.c + x[:, before] @ model.w[before])
        expected = model.bias[pixel] + h @ model.v[pixel]
        assert torch.allclose(model.logits(x, torch.zeros(1, dtype=torch.int64))[:, pixel], expected, atol=1e-5)


def test_the_ordering_follows_from_its_seed_and_travels_with_the_weights():
    one, other = (NADE(SHAPE, 5, ordering="random", order_seed=seed) for seed in (1, 2))
    assert not torch.equal(one.places, other.places)
    other.load_state_dict(one.state_dict())
    x = Rng(0).uniform(10, *SHAPE).round()
    assert torch.equal(one.log_prob(x, rng=Rng(0)).value, other.log_prob(x, rng=Rng(0)).value)


def test_half_precision_leaves_the_sums_alone(batch):
    model = NADE(SHAPE, 12)
    x, which = batch.x.round().flatten(1), torch.zeros(1, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.logits(x, which)
    assert torch.equal(half, model.logits(x, which))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"activation": "gelu"}, "unknown activation 'gelu': choose from sigmoid, tanh, relu"),
        ({"ordering": "several"}, "ordering must be raster or random"),
        ({"ordering": "spiral"}, "ordering must be raster or random"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        NADE(SHAPE, **arguments)
