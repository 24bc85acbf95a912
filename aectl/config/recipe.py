"""Choose batch size and length of a run by the number of training images, for keys that are null in the config.

A model's `recipe` has the values for data of MNIST's size. A small data set would get few steps, so it gets smaller
batches and more epochs. Values that are typed or set by an experiment never change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from omegaconf import DictConfig

from aectl.config.schema import check_recipe

SMALLEST_BATCH = 16
STEPS_PER_EPOCH = 40
"""With fewer steps, batches become smaller. With batches of 128, MNIST has 429 and digits has 10."""
MANY_IMAGES = 20_000
"""From this size on, the recipe's number of epochs is used."""
MOST_EPOCHS = 400
"""Limit of an extended run. Each epoch ends with validation and checkpoint, which cost more than a few steps."""
LONGEST_WARM_UP = 0.8
"""Largest share of a run's steps for `warm_up`, so that the weight of the KL term reaches 1."""
WIDEST_CODE = 0.25
"""Largest code as a share of the pixels: 32 units are a bottleneck for 784 pixels, but not for 64."""
WIDEST_LAYER = 4
"""Largest layer as a multiple of the pixels: wider layers are slower, need lower learning rates and more steps."""
KINDS = ("model_epochs", "model_steps", "model_codes", "model_widths")
"""Keys of a recipe that hold settings of the model."""


def set_recipe_values(config: DictConfig, images: int, shape: Sequence[int]) -> bool:
    """Set the keys that the config leaves to the recipe, for `images` training images of `shape` (C, H, W).

    Returns whether the model's settings differ from those of `with_recipe`, so that it must be built again.
    """
    recipe = check_recipe(config)
    # A typed length is never extended.
    is_typed = config.epochs is not None or config.steps is not None
    fewest = 0 if is_typed or images >= MANY_IMAGES else recipe["steps"]
    if config.batch_size is None:
        config.batch_size = choose_batch_size(images, recipe["batch_size"])
    steps_per_epoch = max(images // config.batch_size, 1)
    if config.steps is not None:
        config.epochs = math.ceil(config.steps / steps_per_epoch)
    elif config.epochs is None:
        config.epochs = choose_epochs(recipe["epochs"], fewest, steps_per_epoch)
    limits = {
        "model_epochs": lambda usual: choose_epochs(usual, fewest, steps_per_epoch),
        "model_steps": lambda usual: min(usual, int(LONGEST_WARM_UP * config.epochs * steps_per_epoch)),
        "model_codes": lambda usual: min(usual, max_code_width(shape)),
        "model_widths": lambda usual: limit_widths(usual, shape),
    }
    before = with_recipe(config, shape)
    for kind, name in list_open_model_keys(config):
        config.model[name] = limits[kind](recipe[kind][name])
    return bool(config.model != before.model)


def with_recipe(config: DictConfig, shape: Sequence[int] | None = None) -> DictConfig:
    """Return a copy of the config with null keys set to the recipe's values, as for MNIST.

    With the images' `shape` (C, H, W), the widths of codes and layers are limited. A config without a recipe, from an
    earlier aectl or the user, is returned unchanged.
    """
    if "recipe" not in config:
        return config
    filled, recipe = config.copy(), check_recipe(config)
    for key in ("epochs", "batch_size"):
        if filled[key] is None:
            filled[key] = recipe[key]
    for kind, name in list_open_model_keys(config):
        usual = recipe[kind][name]
        if shape and kind == "model_codes":
            usual = min(usual, max_code_width(shape))
        elif shape and kind == "model_widths":
            usual = limit_widths(usual, shape)
        filled.model[name] = usual
    return filled


def max_code_width(shape: Sequence[int]) -> int:
    """Return the largest code width for images of a shape (C, H, W)."""
    return max(int(WIDEST_CODE * math.prod(shape)), 1)


def limit_widths(widths: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Limit the widths of hidden layers to four times the pixels of images of a shape (C, H, W)."""
    return [min(width, WIDEST_LAYER * math.prod(shape)) for width in widths]


def list_open_keys(config: DictConfig) -> list[str]:
    """Return the dotted keys that the config leaves to the recipe."""
    top = [key for key in ("epochs", "batch_size") if config[key] is None]
    return [*top, *(f"model.{name}" for _, name in list_open_model_keys(config))]


def list_open_model_keys(config: DictConfig) -> list[tuple[str, str]]:
    """Return kind and name of the model's keys that are in the recipe and null in the config."""
    if not isinstance(config.model, DictConfig):
        return []
    listed = [(kind, str(name)) for kind in KINDS for name in config.recipe.get(kind) or {}]
    return [(kind, name) for kind, name in listed if name in config.model and config.model[name] is None]


def choose_batch_size(images: int, largest: int) -> int:
    """Return `largest`, or with fewer than 40 steps per epoch the power of two from 16 up that gives 40."""
    if images >= largest * STEPS_PER_EPOCH:
        return largest
    wanted = max(images // STEPS_PER_EPOCH, SMALLEST_BATCH)
    return 2 ** int(math.log2(min(wanted, largest, images)))


def choose_epochs(usual: int, fewest_steps: int, steps_per_epoch: int) -> int:
    """Return the recipe's epochs `usual`, or the epochs that `fewest_steps` need, at most 400."""
    return max(usual, min(math.ceil(fewest_steps / steps_per_epoch), MOST_EPOCHS))
