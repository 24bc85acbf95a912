"""The GAN's costs are the published formulas, and each player moves alone."""

from functools import partial

import pytest
import torch

from aectl.models.base import Stage
from aectl.models.gan import GAN, LOSSES, energy_distance
from aectl.models.networks import DenseDecoder, DenseEncoder
from aectl.rng import Rng

SHAPE = (1, 8, 8)
nets = (partial(DenseDecoder, widths=[16]), partial(DenseEncoder, widths=[16]))


def test_minimax_is_the_lectures_cost():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    discriminator, generator, _ = LOSSES["minimax"]
    expected = -0.5 * real.sigmoid().log().mean() - 0.5 * (1 - fake.sigmoid()).log().mean()
    assert torch.allclose(discriminator(real, fake), expected)
    # Zero sum: the generator's cost is what it can change of the discriminator's, negated.
    assert torch.allclose(generator(fake), 0.5 * (1 - fake.sigmoid()).log().mean())


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "wasserstein"}, "loss must be one of"),
        ({"gradient_penalty": -1}, "gradient_penalty"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"averaging": 1}, "averaging"),
        ({"code": 0}, "code must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAN(SHAPE, **{"code": 3, "generator": nets[0], "discriminator": nets[1], **arguments})
