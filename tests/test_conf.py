"""Every YAML opens with its command, composes, fits the signature it names, and builds."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from aectl.config import accepts, build, check_signature, conf_dir
from aectl.config.recipe import with_recipe
from aectl.config.schema import check_ranges
from aectl.metric import find_metric
from aectl.models.base import Batch, Model, collect_metrics
from aectl.rng import Rng
from aectl.runs.loading import PARTS, build_model
from aectl.training.device import available_devices

CONF = Path(conf_dir())
GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device")
OPTIONS = sorted((path.parent.name, path.stem) for group in GROUPS for path in (CONF / group).glob("*.yaml"))
DIGITS = {"shape": (1, 8, 8), "classes": 10}
FACTS = {"boltzmann": {"shape": (1, 4, 4), "classes": 10}}
"""Of models that images of 8×8 pixels are too large for."""


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_fits_its_signature_and_builds(group, option):
    config = composed("dataset=digits", f"{group}={option}")
    if (group, option) == ("model", "custom"):
        assert OmegaConf.is_missing(config.model, "_target_")
        return
    # Of data sets of one's own, the key that says where they are.
    missing = [key for key in config[group] or {} if OmegaConf.is_missing(config[group], key)]
    for key in missing:
        config[group][key] = "x"
    check_ranges(config)
    filled = with_recipe(config)
    for part in GROUPS:
        check_signature(filled[part], part)
    if group == "model":
        check_model(config, FACTS.get(option, DIGITS))
    elif not missing and (group != "device" or option in ("auto", *available_devices())):
        assert (build(config[group], group) is None) == (option == "none")


def check_model(config, facts):
    """Assert that a model builds with every number of its YAML stated, and that its metrics have a meaning."""
    model = build_model(config, facts)
    assert isinstance(model, Model)
    # The first table of an evaluation shows what it validates.
    batch = Batch(Rng(0).uniform(100, *facts["shape"]), torch.arange(100) % 10, torch.arange(100))
    names = model.eval().validate(batch, Rng(0))
    assert names and [name for name in names if not find_metric(collect_metrics(type(model)), name).meaning] == []
    for part in PARTS:
        assert accepts(config.model, part) or config[part]["_target_"] is None


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_every_yaml_opens_with_the_command_that_uses_it(path):
    if path.parent.parent.name == "hydra":
        return
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# aectl "), lines[0]
    if path.parent != CONF:
        assert f"{path.parent.name}={path.stem}" in lines[0]
