"""What holds for every model: gradients reach its groups, validation changes nothing, all draws are the rng's."""

import ast
from pathlib import Path

import pytest
import torch

import aectl
from aectl.models.base import METHODS, Decodes, Encodes, Mean, Reconstructs, Samples, Stage
from aectl.rng import Rng

ROOT = Path(aectl.__file__).parent


def step(model, batch, rng):
    for loss in model.losses(batch, Stage(), rng):
        params = list(model.groups(Stage())[loss.group].params)
        loss.value.backward(inputs=params)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in params)
        yield loss


def test_every_parameter_is_in_one_group_and_gets_a_gradient(model, batch):
    grouped = [p for group in model.groups(Stage()).values() for p in group.params]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in grouped} == {id(p) for p in trained}
    assert len(grouped) == len(trained)
    losses = list(step(model, batch, Rng(0)))
    assert {loss.group for loss in losses} == set(model.groups(Stage()))


def test_validation_leaves_the_model_bit_equal(model, batch):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    with torch.no_grad():
        metrics = model.validate(batch, Rng(0))
    values = [found.value if isinstance(found, Mean) else found for found in metrics.values()]
    assert all(value.dim() == 0 and torch.isfinite(value) for value in values)
    assert model.objective.removeprefix("val/") in metrics
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_only_randomness_is_the_rngs(model, batch):
    state = torch.get_rng_state()
    first = [loss.value.detach() for loss in step(model, batch, Rng(5))]
    second = [loss.value.detach() for loss in step(model, batch, Rng(5))]
    assert torch.equal(torch.get_rng_state(), state)
    # Batch norm's running means move, but training does not use them: the same draws give the same losses.
    assert torch.equal(first[0], second[0])


def test_strengths_that_a_sweep_varies_are_buffers_and_not_weights(model):
    strengths = {"beta", "weight", "std", "p", "code_dropout", "gradient_penalty"}
    for path, module in model.named_modules():
        for name, value in module.named_buffers(recurse=False):
            if name in strengths:
                assert value.dim() == 0
                assert f"{path}.{name}".lstrip(".") not in model.state_dict()


def test_abilities_take_and_give_images(model, batch):
    model.eval()
    if isinstance(model, Encodes):
        codes = model.encode(batch.x)
        assert codes.shape == (32, model.code)
    if isinstance(model, Encodes) and isinstance(model, Decodes):
        assert model.decode(codes).shape == batch.x.shape
    if isinstance(model, Reconstructs):
        assert model.reconstruct(batch.x).shape == batch.x.shape
    if isinstance(model, Samples):
        images = model.sample(5, rng=Rng(0))
        assert images.shape == (5, *batch.x.shape[1:])
        assert images.min() >= 0
        assert images.max() <= 1
        assert torch.equal(images, model.sample(5, rng=Rng(0)))


def test_a_missing_ability_is_an_error_that_lists_those_there_are(model):
    assert set(model.abilities()) == {name for name in METHODS if hasattr(model, name)}
    for name in set(METHODS) - set(model.abilities()):
        with pytest.raises(AttributeError, match=rf"has no {name}\(\): this model has {', '.join(model.abilities())}$"):
            getattr(model, name)
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = model.nothing


@pytest.mark.parametrize("path", [*ROOT.glob("models/*.py"), ROOT / "data/noise.py"], ids=lambda p: p.stem)
def test_no_source_of_randomness_but_rng(path):
    draws = {"rand", "randn", "rand_like", "randn_like", "randint", "bernoulli", "multinomial", "randperm", "normal"}
    layers = {"Dropout", "Dropout1d", "Dropout2d", "AlphaDropout", "dropout"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = node.value.id
            assert not (owner == "torch" and node.attr in draws), f"{path.name}:{node.lineno} torch.{node.attr}"
            assert not (owner in ("nn", "F") and node.attr in layers), f"{path.name}:{node.lineno} {owner}.{node.attr}"
