"""Small data get smaller batches and more epochs; MNIST, experiments and what is typed stay as they are."""

import json
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from aectl.config import ConfigError, conf_dir, recipe
from aectl.config.schema import check_ranges
from aectl.runs.run import Run

DIGITS, MNIST = (1287, (1, 8, 8)), (55_000, (1, 28, 28))
MODELS = {
    "conv": (12, 128),
    "coupled": (20, 128),
    "dae": (30, 128),
    "dbm": (30, 100),
    "dbn": (20, 100),
    "dropout": (20, 128),
    "ebm": (20, 128),
    "fvsbn": (30, 100),
    "gan": (50, 128),
    "gan_conv": (20, 128),
    "iwae": (30, 128),
    "ksparse": (30, 128),
    "linear": (20, 128),
    "made": (30, 100),
    "nade": (15, 100),
    "overcomplete": (20, 128),
    "rbm": (30, 100),
    "shallow": (20, 128),
    "sparse": (30, 128),
    "stacked_ae": (20, 128),
    "stacked_dae": (20, 128),
    "stacked_rbm": (20, 128),
    "undercomplete": (40, 128),
    "vae": (30, 128),
    "vae2": (30, 128),
    "vae_conv": (30, 128),
}
"""Epochs and batch size on MNIST, which all published numbers were made with."""
OWN = {
    "undercomplete": {"code": 32},
    "vae2": {"warm_up": 10_000},
    **{f"stacked_{layer}": {"pretrain_epochs": 10} for layer in ("ae", "dae")},
    "stacked_rbm": {"pretrain_epochs": 10, "widths": [1000, 1000, 1000]},
    "dbm": {"widths": [500, 1000]},
    "dbn": {"widths": [500, 2000]},
}
SMALL_EXPERIMENTS = {"toy": (7000, 40, 256), "toy_gan": (7000, 40, 128), "hinton_boltzmann": (10_100, 20, 100)}
"""Experiments on few images: how many, epochs, batch size."""


@cache
def composed_once(*overrides):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("train", list(overrides))


def composed(*overrides):
    """Return a config; options are composed once, since that takes a while, and what else is typed is set in a copy."""
    options = [word for word in overrides if word.startswith(("model=", "experiment="))]
    config = composed_once(*options).copy()
    for word in overrides:
        if word not in options:
            key, _, value = word.lstrip("+").partition("=")
            OmegaConf.update(config, key, yaml.safe_load(value), force_add=word.startswith("+"))
    return config


def filled(*overrides, images=DIGITS[0], shape=DIGITS[1]):
    config = composed(*overrides)
    check_ranges(config)
    recipe.set_recipe_values(config, images, shape)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_on_mnist_every_model_has_the_run_that_the_published_numbers_were_made_with(model):
    config = composed(f"model={model}")
    recipe.set_recipe_values(config, *MNIST)
    assert (config.epochs, config.batch_size) == MODELS[model]
    assert {key: config.model[key] for key in OWN.get(model, {})} == OWN.get(model, {})


@pytest.mark.parametrize("images", [20_000, 49_500, 54_600, 60_000])
def test_many_images_change_no_length_and_no_batch(images):
    config = composed("recipe.steps=100000", "recipe.batch_size=500", "recipe.epochs=7")
    recipe.set_recipe_values(config, images, MNIST[1])
    assert (config.epochs, config.batch_size) == (7, 500)


@pytest.mark.parametrize("name", SMALL_EXPERIMENTS)
def test_experiments_on_few_images_keep_their_protocol(name):
    images, epochs, batch = SMALL_EXPERIMENTS[name]
    config = filled(f"experiment={name}", images=images)
    assert (config.epochs, config.batch_size) == (epochs, batch)


@pytest.mark.parametrize(
    ("images", "batch", "steps_an_epoch"),
    [(5120, 128, 40), (5119, 64, 79), (1287, 32, 40), (640, 16, 40), (100, 16, 6), (20, 16, 1), (15, 8, 1), (1, 1, 1)],
)
def test_the_batch_leaves_forty_steps_an_epoch_or_is_sixteen(images, batch, steps_an_epoch):
    assert recipe.choose_batch_size(images, 128) == batch
    assert images // batch == steps_an_epoch


def test_digits_are_passed_over_until_the_recipes_steps_are_done_and_tiny_sets_four_hundred_times():
    config = filled("model=linear")
    assert (config.epochs, config.batch_size) == (100, 32)
    assert filled("model=linear", images=100).epochs == recipe.MOST_EPOCHS


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        (("epochs=5",), (5, 32)),
        (("batch_size=128",), (400, 128)),
        (("epochs=5", "batch_size=128"), (5, 128)),
        (("steps=300",), (8, 32)),
        (("steps=300", "batch_size=100"), (25, 100)),
        (("recipe.steps=400",), (20, 32)),
        (("recipe.batch_size=16", "recipe.epochs=3", "recipe.steps=800"), (10, 16)),
    ],
)
def test_what_is_typed_wins(typed, chosen):
    config = filled("model=linear", *typed)
    assert (config.epochs, config.batch_size) == chosen


def test_stages_warm_ups_and_codes_follow():
    assert filled("model=stacked_ae").model.pretrain_epochs == filled("model=stacked_ae").epochs == 25
    assert filled("model=stacked_ae", "epochs=2").model.pretrain_epochs == 10
    assert filled("model=stacked_ae", "model.pretrain_epochs=[1,2,0]").model.pretrain_epochs == [1, 2, 0]
    assert filled("model=vae2").model.warm_up == 0.8 * 4000
    assert filled("model=vae2", "model.warm_up=0").model.warm_up == 0
    assert filled("model=undercomplete").model.code == 16
    assert filled("model=undercomplete", "model.code=32").model.code == 32
    assert filled("model=undercomplete", shape=(1, 1, 2)).model.code == 1


@pytest.mark.parametrize("model", ["dbm", "dbn", "stacked_rbm"])
def test_layers_have_at_most_four_times_as_many_units_as_the_images_have_pixels(model):
    before = recipe.with_recipe(composed(f"model={model}"), DIGITS[1]).model.widths
    config = filled(f"model={model}")
    assert config.model.widths == before == [256] * len(OWN[model]["widths"])
    assert (config.epochs * 40, config.batch_size) == (6000 if model == "dbm" else 4000, 32)
    typed = [300] * len(before)
    assert filled(f"model={model}", f"model.widths={typed}").model.widths == typed
    assert filled(f"model={model}", shape=(1, 1, 50)).model.widths == [200] * len(before)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("steps=10", "epochs=1"), "epochs=1 and steps=10 both set the length"),
        (("steps=0",), "steps must be at least 1, not 0"),
        (("recipe=5",), "recipe must be a mapping"),
        (("+recipe.lr=5",), "recipe must be a mapping with the keys epochs, batch_size, steps"),
        (("recipe.epochs=0",), "recipe.epochs must be a whole number of at least 1, not 0"),
        (("recipe.steps=1.5",), "recipe.steps must be a whole number"),
        (("recipe.model_codes=3",), "recipe.model_codes must be a mapping"),
        (("recipe.model_widths=3",), "recipe.model_widths must be a mapping"),
        (("+recipe.model_widths.widths=3",), "recipe.model_widths.widths must be a list of whole numbers"),
        (("+recipe.model_widths.widths=[3,0]",), "recipe.model_widths.widths must be a list of whole numbers"),
    ],
)
def test_bad_recipes_are_refused(typed, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        check_ranges(composed(*typed))


def test_a_run_keeps_the_widths_that_were_chosen_for_it(aectl, monkeypatch):
    words = ("dataset=digits", "model=dbn", "model.sample_steps=1", "steps=1", "device=cpu", "device.threads=1")
    assert aectl("train", *words, "hydra.run.dir=run")[0] == 0
    run = Run(Path("run"))
    assert run.record["chosen"] == {"epochs": 1, "batch_size": 32, "model.widths": [256, 256]}
    monkeypatch.setattr(recipe, "WIDEST_LAYER", 1)
    assert run.config().model.widths == [256, 256]


def test_a_run_keeps_what_was_chosen_for_it(aectl, monkeypatch):
    words = ("dataset=digits", "model=linear", "recipe.epochs=1", "recipe.steps=50", "device=cpu", "device.threads=1")
    code, out, _ = aectl("train", *words, "hydra.run.dir=run")
    assert code == 0
    assert "1,287 training images in batches of 32: 40 steps an epoch, epochs=2" in out
    run = Run(Path("run"))
    assert run.record["chosen"] == {"epochs": 2, "batch_size": 32}
    assert (run.config().epochs, run.config().batch_size) == (2, 32)
    monkeypatch.setattr(recipe, "STEPS_PER_EPOCH", 5)
    assert aectl("train", "resume=run", "epochs=3")[0] == 0
    assert (run.record["epochs"], run.config().epochs, run.config().batch_size) == (3, 3, 32)
    assert aectl("train", "resume=run", "steps=130")[0] == 0
    assert (run.record["epochs"], run.config().epochs, run.config().batch_size) == (4, 4, 32)
    # Of an aectl without recipes, all numbers are in the config.
    record = json.loads(Path("run/run.json").read_text())
    del record["chosen"]
    Path("run/run.json").write_text(json.dumps(record))
    assert run.config().batch_size == 32
