"""Every YAML opens with its command, composes, fits the signature it names, and builds."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from aectl.config import accepts, build, check_signature, conf_dir
from aectl.config.recipe import filled_in
from aectl.config.schema import check_ranges
from aectl.models.base import Batch, Model
from aectl.rng import Rng
from aectl.runs.loading import PARTS, build_model
from aectl.runs.metrics_json import meaning
from aectl.training.device import available

CONF = Path(conf_dir())
GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device")
OPTIONS = sorted((path.parent.name, path.stem) for group in GROUPS for path in (CONF / group).glob("*.yaml"))
OWN = {"arrays": "path", "folder": "root"}
"""Data sets of one's own, with the key that says where they are."""
DIGITS = {"shape": (1, 8, 8), "classes": 10}
FACTS = {"boltzmann": {"shape": (1, 4, 4), "classes": 10}}
"""Of models that images of 8×8 pixels are too large for."""


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_fits_its_signature(group, option):
    config = composed("dataset=digits", f"{group}={option}")
    if (group, option) == ("model", "custom"):
        assert OmegaConf.is_missing(config.model, "_target_")
        return
    if group == "dataset" and option in OWN:
        config.dataset[OWN[option]] = "x"
    check_ranges(config)
    filled = filled_in(config)
    for part in GROUPS:
        check_signature(filled[part], part)


@pytest.mark.parametrize("option", [option for group, option in OPTIONS if group == "model" and option != "custom"])
def test_every_model_builds_with_every_number_of_its_yaml_stated(option):
    config = composed("dataset=digits", f"model={option}")
    facts = FACTS.get(option, DIGITS)
    model = build_model(config, facts)
    assert isinstance(model, Model)
    # The first table of an evaluation shows what it validates.
    batch = Batch(Rng(0).uniform(100, *facts["shape"]), torch.arange(100) % 10, torch.arange(100))
    names = model.eval().validate(batch, Rng(0))
    assert names and [name for name in names if not meaning("objective", name)] == []
    for part in PARTS:
        assert accepts(config.model, part) or config[part]["_target_"] is None


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g, o in OPTIONS if g != "model" and o not in OWN and (g != "device" or o in ("auto", *available()))],
)
def test_every_other_part_builds(group, option):
    config = composed(f"{group}={option}")
    built = build(config[group], group)
    assert (built is None) == (option == "none")


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF)))
def test_every_yaml_opens_with_the_command_that_uses_it(path):
    if path.parent.parent.name == "hydra":
        return
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# aectl "), lines[0]
    if path.parent != CONF:
        assert f"{path.parent.name}={path.stem}" in lines[0]
