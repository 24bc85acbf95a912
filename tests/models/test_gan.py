"""The GAN's costs are the published formulas, and each player moves alone."""

from functools import partial

import numpy as np
import pytest
import torch

from aectl.data.noise import Gaussian
from aectl.models.base import Batch, Stage
from aectl.models.gan import GAN, LOSSES, energy_distance
from aectl.models.networks import (
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
    StridedEncoder,
    SubpixelDecoder,
)
from aectl.rng import Rng
from aectl.runs.run import find_run

SHAPE = (1, 8, 8)
nets = (partial(DenseDecoder, widths=[16]), partial(DenseEncoder, widths=[16]))


def test_minimax_is_the_lectures_cost():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    minimax = LOSSES["minimax"]
    expected = -0.5 * real.sigmoid().log().mean() - 0.5 * (1 - fake.sigmoid()).log().mean()
    assert torch.allclose(minimax.discriminator(real, fake), expected)
    # Zero sum: the generator's cost is what it can change of the discriminator's, negated.
    assert torch.allclose(minimax.generator(real, fake), 0.5 * (1 - fake.sigmoid()).log().mean())


def test_relativistic_costs_pull_the_scores_of_each_pair_apart_by_the_logistic_function():
    real, fake = torch.tensor([2.0, -1.0, 0.3]).requires_grad_(), torch.tensor([0.5, -3.0, 4.0]).requires_grad_()
    loss, wrong = LOSSES["relativistic"], (fake - real).sigmoid().detach()
    for cost, sign, doubt in ((loss.discriminator, 1, wrong), (loss.generator, -1, 1 - wrong)):
        slopes = torch.autograd.grad(cost(real, fake), (real, fake))
        assert torch.allclose(slopes[0], -sign * doubt / 3)
        assert torch.allclose(slopes[1], sign * doubt / 3)
        assert torch.allclose(cost(real + 5, fake + 5), cost(real, fake))


def test_relativistic_generator_is_compared_with_real_images_that_the_new_discriminator_scores(batch):
    torch.manual_seed(0)
    model = GAN(SHAPE, 3, *nets, loss="relativistic")
    losses, rng = model.losses(batch, Stage(), Rng(0)), Rng(0)
    first = next(losses)
    fake = model.decode(rng.normal(32, 3))
    right = (model.score(batch.x, rng) > model.score(fake, rng)).float().mean()
    assert first.metrics == {"accuracy_real": right, "accuracy_fake": right}
    with torch.no_grad():
        model.discriminator.head[0].weight.mul_(-3)
    expected = torch.nn.functional.softplus(model.score(batch.x, rng) - model.score(fake, rng)).mean()
    torch.testing.assert_close(next(losses).value, expected)


def linear(**settings):
    """Return a GAN with a linear discriminator w·x + b, and ½ ‖w‖²."""
    torch.manual_seed(0)
    model = GAN(SHAPE, 3, nets[0], DenseEncoder, noise=Gaussian(0.1), **settings)
    return model, 0.5 * model.discriminator.head[0].weight.square().sum()


def discriminator_costs(model, batch, steps=1):
    """Return the discriminator's cost at several steps of the same weights, each on the same numbers."""
    return [next(model.losses(batch, Stage(), Rng(0))).value for _ in range(steps)]


@pytest.mark.parametrize("loss", ["nonsaturating", "relativistic"])
@pytest.mark.parametrize(("r1", "r2"), [(0.3, 0), (0, 0.7), (2, 3)])
def test_penalties_of_a_linear_discriminator_are_half_its_squared_weights(batch, loss, r1, r2):
    plain, model = linear(loss=loss)[0], linear(loss=loss, r1=r1, r2=r2)[0]
    costs = [discriminator_costs(one, batch)[0] for one in (model, plain)]
    weights = [one.discriminator.head[0].weight for one in (model, plain)]
    slopes = [torch.autograd.grad(cost, weight)[0] for cost, weight in zip(costs, weights, strict=True)]
    torch.testing.assert_close(costs[0] - costs[1], (r1 + r2) / 2 * weights[0].square().sum())
    torch.testing.assert_close(slopes[0] - slopes[1], (r1 + r2) * weights[0].detach())


def test_lazy_penalties_are_n_times_as_strong_on_every_nth_step_and_resume_at_theirs(batch):
    (plain,) = discriminator_costs(linear()[0], batch)
    model, half = linear(r1=0.5, r2=0.25, penalty_every=3)
    expected = [plain + factor * 0.75 * half for factor in (3, 0, 0, 3, 0, 0, 3)]
    torch.testing.assert_close(discriminator_costs(model, batch, 5), expected[:5])
    other, _ = linear(r1=0.5, r2=0.25, penalty_every=3)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(discriminator_costs(other, batch, 2), expected[5:])
    for other.is_recorded in (True, False):
        torch.testing.assert_close(discriminator_costs(other, batch, 3), [expected[i] for i in (1, 2, 3)])
    model, _ = linear(loss="wgan_gp", penalty_every=2)
    with_penalty, without = discriminator_costs(model, batch, 2)
    slope = model.discriminator.head[0].weight.norm()
    torch.testing.assert_close(with_penalty - without, 2 * 10 * (slope - 1).square())


def test_scores_of_both_kinds_in_one_pass_are_those_of_two(batch):
    torch.manual_seed(0)
    calls = []
    for norm, passes in (("none", 1), ("batch", 2)):
        model = GAN(SHAPE, 3, nets[0], partial(nets[1], norm=norm), r1=1, r2=1)
        model.discriminator.register_forward_hook(lambda *_: calls.append(1))
        fake = Rng(0).uniform(32, *SHAPE)
        alone = [model.score_seen(images) for images in (batch.x, fake)]
        calls.clear()
        torch.testing.assert_close(list(model.score_both(batch.x, fake, None)), alone)
        assert len(calls) == passes


@pytest.mark.parametrize("loss", LOSSES)
def test_each_yield_moves_its_own_player_and_the_generator_sees_the_new_discriminator(loss, batch):
    torch.manual_seed(0)
    model = GAN(SHAPE, 3, *nets, loss=loss)
    optimizers = {n: torch.optim.SGD(list(g.params), lr=0.1) for n, g in model.groups(Stage()).items()}
    seen = []
    for item in model.losses(batch, Stage(), Rng(0)):
        before = {n: v.clone() for n, v in model.state_dict().items()}
        params = list(model.groups(Stage())[item.group].params)
        item.value.backward(inputs=params)
        optimizers[item.group].step()
        moved = {n.split(".")[0] for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
        assert moved == {item.group}
        seen.append(item.group)
    assert seen == ["discriminator", "generator"]


def test_samples_come_from_the_mean_of_the_generators_weights(batch):
    model = GAN(SHAPE, 3, partial(nets[0], norm="batch"), nets[1], averaging=0.75)
    start = model.average.layers[0].weight.clone()
    optimizer = torch.optim.SGD(model.generator.parameters(), lr=0.5)
    for loss in model.losses(batch, Stage(), Rng(0)):
        if loss.group == "generator":
            loss.value.backward()
            optimizer.step()
    now = model.generator.layers[0].weight
    assert not torch.equal(start, now)
    assert torch.allclose(model.average.layers[0].weight, 0.5 * start + 0.5 * now)
    assert torch.equal(model.average.layers[1].running_mean, model.generator.layers[1].running_mean)
    z = Rng(1).normal(5, 3)
    assert torch.equal(model.eval().decode(z), model.average(z).sigmoid())


def test_the_discriminator_may_take_several_steps(batch):
    model = GAN(SHAPE, 3, *nets, discriminator_steps=3)
    assert [loss.group for loss in model.losses(batch, Stage(), Rng(0))] == ["discriminator"] * 3 + ["generator"]


def test_energy_distance_tells_one_law_from_two():
    rng = Rng(0)
    x, y, far = rng.normal(400, 5), rng.normal(400, 5), rng.normal(400, 5) + 2
    assert abs(float(energy_distance(x, y))) < 0.05
    assert float(energy_distance(x, far)) > 1


def conditional(**settings):
    torch.manual_seed(0)
    return GAN(SHAPE, 3, *nets, **{"conditional": True, "classes": 4, **settings})


def play(model, batch, steps, lr=0.01):
    """Train for some steps; returns what was logged, the last of each name."""
    groups = {name: list(group.params) for name, group in model.groups(Stage()).items()}
    optimizers = {name: torch.optim.Adam(params, lr=lr, betas=(0.5, 0.999)) for name, params in groups.items()}
    rng, logged = Rng(0), {}
    for _ in range(steps):
        for loss in model.losses(batch, Stage(), rng):
            optimizers[loss.group].zero_grad()
            loss.value.backward(inputs=groups[loss.group])
            optimizers[loss.group].step()
            logged |= loss.metrics or {}
    return logged


def levels(n=128):
    """Return images that are as grey as their class says: 0.1, 0.35, 0.6 or 0.85, and their classes."""
    y = torch.arange(n) % 4
    x = (0.1 + 0.25 * y)[:, None, None, None].expand(n, *SHAPE) + 0.02 * Rng(3).normal(n, *SHAPE)
    return Batch(x.clamp(0, 1), y, torch.arange(n))


@pytest.mark.slow
def test_a_conditional_generator_draws_the_class_that_it_is_asked_for():
    model = conditional(averaging=0.9)
    play(model, levels(), 500)
    model.eval()
    asked = torch.arange(4).repeat(50)
    grey = model.sample(200, rng=Rng(1), y=asked).flatten(1).mean(1).detach()
    nearest = (grey[:, None] - torch.tensor([0.1, 0.35, 0.6, 0.85])).abs().argmin(1)
    # By chance it would be a quarter.
    assert float((nearest == asked).float().mean()) > 0.9


def test_without_a_class_the_datas_shares_are_drawn_and_no_class_that_is_left_out():
    model = conditional()
    y = torch.tensor([0] * 60 + [2] * 20 + [-1] * 30)
    model.prepare([Batch(torch.zeros(len(y), *SHAPE), y, y)])
    assert torch.allclose(model.shares, torch.tensor([0.75, 0, 0.25, 0]))
    drawn = model.complete_labels(20_000, None, Rng(0)).bincount(minlength=4) / 20_000
    assert torch.allclose(drawn, model.shares, atol=0.015)
    assert drawn[1] == drawn[3] == 0
    # What has a class keeps it; only the others are drawn.
    some = model.complete_labels(4, torch.tensor([3, -1, 1, -1]), Rng(0))
    assert (some[0], some[2]) == (3, 1)
    assert set(some[[1, 3]].tolist()) <= {0, 2}
    z = Rng(1).normal(5, 3)
    assert torch.equal(model.decode(z), model.decode(z, torch.zeros(5, dtype=torch.int64)))
    assert model.sample(6, rng=Rng(2)).shape == (6, *SHAPE)


def test_the_discriminator_judges_an_image_as_one_of_its_class():
    model, batch = conditional(noise=Gaussian(0.1)), levels(8)
    scores = model.discriminator(model.noise(batch.x, Rng(4)))
    assert scores.shape == (8, 4)
    assert torch.equal(model.score(batch.x, Rng(4), batch.y), scores[torch.arange(8), batch.y])
    # A projection discriminator: psi(h) + e_y h.
    h, layer = model.discriminator.features(batch.x), model.discriminator.head[0]
    psi = model.discriminator(batch.x).mean(1)
    projected = ((layer.weight - layer.weight.mean(0))[batch.y] * h).sum(1) + (layer.bias - layer.bias.mean())[batch.y]
    torch.testing.assert_close(model.score_seen(batch.x, batch.y), psi + projected)
    first = next(model.losses(batch, Stage(), Rng(0)))
    own = first.value.item()
    other = next(model.losses(batch._replace(y=(batch.y + 1) % 4), Stage(), Rng(0))).value.item()
    assert own != other


def test_a_conditional_one_learns_from_labelled_images_alone():
    model = conditional()
    assert [stage.labelled for stage in model.stages()] == [True]
    assert [stage.labelled for stage in GAN(SHAPE, 3, *nets).stages()] == [False]
    unlabelled = Batch(torch.zeros(5, *SHAPE), torch.full((5,), -1), torch.arange(5))
    with pytest.raises(ValueError, match="conditional=true needs training images with labels"):
        model.prepare([unlabelled])
    model.eval()
    with torch.no_grad():
        assert all(torch.isfinite(value) for value in model.validate(unlabelled, Rng(0)).values())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_conditionally_with_convolutions_too(loss):
    torch.manual_seed(0)
    leaky = {"activation": "leaky_relu"}
    conv = partial(ConvDecoder, channels=[3, 2], **leaky), partial(ConvEncoder, channels=[2, 3], pool=False, **leaky)
    model = GAN(SHAPE, 3, *conv, loss=loss, conditional=True, classes=4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    play(model, levels(32), 1)
    # With as many fakes as images of each class, the slopes at the scores' own bias may cancel.
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert still <= {"discriminator.head.0.bias"}


def test_convolutional_networks_train_on_colour_images_of_odd_sizes():
    torch.manual_seed(0)
    networks = (
        partial(SubpixelDecoder, channels=[6, 4, 3], norm="batch"),
        partial(StridedEncoder, channels=[3, 4, 6], norm="spectral", minibatch_std=True),
    )
    settings = {"loss": "relativistic", "r1": 1, "r2": 1, "noise": Gaussian(0.1)}
    model = GAN((3, 33, 50), 3, *networks, conditional=True, classes=4, **settings)
    x, y = Rng(0).uniform(8, 3, 33, 50), torch.arange(8) % 4
    before = {name: value.clone() for name, value in model.state_dict().items()}
    play(model, Batch(x, y, torch.arange(8)), 1)
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    # Pairs of one class do not see a bias of scores.
    assert still <= {"discriminator.head.0.bias", "shares"}
    assert model.eval().sample(2, rng=Rng(1)).shape == (2, 3, 33, 50)


def test_gradient_norms_are_those_of_backpropagation_and_of_the_slopes_by_hand():
    model, batch = GAN(SHAPE, 3, *nets, gradient_norms=True), levels(32)
    item = next(item for item in model.losses(batch, Stage(), Rng(0)) if item.group == "generator")
    rng = Rng(0)
    fake = model.decode(rng.normal(32, 3))
    fake_score = model.score(fake, rng)
    # d/ds of log(1 - s(s)) and of -log s(s), s the logistic function, averaged over the batch.
    by_hand = {"minimax": -fake_score.sigmoid() / 32, "nonsaturating": (fake_score.sigmoid() - 1) / 32}
    for name, slopes in by_hand.items():
        model.zero_grad()
        fake_score.backward(slopes.detach(), retain_graph=True)
        expected = torch.cat([p.grad.flatten() for p in model.generator.parameters()]).norm()
        assert torch.allclose(item.metrics[f"gradient_{name}"], expected, rtol=1e-5)


def test_a_sure_discriminator_leaves_minimax_no_gradient_and_the_other_one():
    model, batch = GAN(SHAPE, 3, *nets, gradient_norms=True), levels(32)
    with torch.no_grad():
        model.discriminator.head[0].bias.fill_(-12.0)
    item = next(item for item in model.losses(batch, Stage(), Rng(0)) if item.group == "generator")
    assert item.metrics["gradient_minimax"] < 1e-4 * item.metrics["gradient_nonsaturating"]


def test_looking_at_gradient_norms_changes_no_step():
    weights = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = GAN(SHAPE, 3, partial(nets[0], norm="batch"), nets[1], noise=Gaussian(0.3), gradient_norms=looks)
        logged = play(model, levels(32), 5)
        assert ("gradient_minimax" in logged) == looks
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_a_class_is_drawn_on_the_command_line_and_a_resumed_run_is_the_whole_one(aectl):
    import aectl as package

    quick = ("dataset=digits", "device=cpu", "device.threads=1", "batch_size=256", "schedule=constant")
    settings = ("model=gan", "model.conditional=true", "model.gradient_norms=true", "dataset.labels=700", *quick)
    code, out, err = aectl("train", *settings, "epochs=2")
    assert code == 0, out + err
    whole = find_run("latest").absolute()
    assert "train/gradient_minimax" in (whole / "metrics.csv").read_text()
    draws = []
    for label in (7, 2):
        code, out, err = aectl("sample", "run=latest", "kind=prior", f"label={label}", "n=5", "device=cpu")
        assert code == 0, out + err
        draws.append(np.load(whole / "samples/prior.npz")["images"])
    model = package.load(whole)
    assert not np.array_equal(*draws)
    assert model.conditional
    aectl("train", *settings, "epochs=1")
    code, out, err = aectl("train", "resume=latest", "epochs=2")
    assert code == 0, out + err
    resumed, straight = (package.load(run, "last").state_dict() for run in ("latest", whole))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    code, out, err = aectl("sample", "run=latest", "n=5", "device=cpu")
    assert code == 0, out + err


def test_a_conditional_one_without_labels_is_refused_in_one_line(aectl):
    code, _, err = aectl("train", "model=gan", "model.conditional=true", "dataset=digits", "dataset.labels=0")
    assert code != 0
    assert "labels, and there are none" in err
    assert len(err.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "wasserstein"}, "loss must be one of"),
        ({"gradient_penalty": -1}, "gradient_penalty"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"averaging": 1}, "averaging"),
        ({"r1": -1}, "r1 must be a finite number ≥ 0, not -1"),
        ({"r2": float("nan")}, "r2 must be a finite number"),
        ({"penalty_every": 0}, "penalty_every must be at least 1"),
        ({"code": 0}, "code must be at least 1"),
        ({"conditional": True}, "conditional=true needs a dataset with classes"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAN(SHAPE, **{"code": 3, "generator": nets[0], "discriminator": nets[1], **arguments})
