"""The typed top level, its ranges, and how conf/ composes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aectl.config import ConfigError, conf_dir
from aectl.config.folder_names import make_slug
from aectl.config.schema import SCHEMAS, TrainConfig, check_ranges, parse_seconds


def composed(*overrides, name="train", hydra=False):
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=hydra)


def changed(**values):
    return OmegaConf.merge(OmegaConf.structured(TrainConfig), values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"patience": 0}, "patience must be at least 1, not 0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 2**63}, r"seed must be less than 2\*\*63"),
        ({"grad_clip": 0}, "grad_clip must be greater than 0, not 0.0"),
        ({"max_time": "soon"}, "max_time must be a time such as"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr must be a finite number, not nan"),
        ({"model": {"betas": [0.1, float("inf")]}}, r"model.betas\[1\] must be a finite number, not inf"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        check_ranges(changed(**values))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sample", ["run=null"], "run is missing: type run=latest"),
        ("eval", ["run=x", "checkpoint=first"], "checkpoint must be one of best, last, not 'first'"),
        ("eval", ["run=x", "split=all"], "split must be one of test, valid, train, not 'all'"),
        ("sample", ["run=x", "n=0"], "n must be at least 1, not 0"),
        ("sample", ["run=x", "temperature=-1"], "temperature must be at least 0"),
        ("train", ["+modl=x"], "no key 'modl'; did you mean 'model'?"),
        ("train", ["~seed"], "seed is missing from the config"),
    ],
)
def test_composed_configs_are_checked(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check_ranges(composed(*overrides, name=name))


@pytest.mark.parametrize("command", SCHEMAS)
def test_defaults_are_in_range(command):
    check_ranges(composed(*(["run=latest"] if command != "train" else []), name=command))


@pytest.mark.parametrize("values", [{"epochs": "many"}, {"patience": 1.5}, {"grad_clip": "x"}, {"tags": 3}, {"run": 1}])
def test_the_top_level_is_typed(values):
    with pytest.raises(OmegaConfBaseException):
        changed(**values)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), (90, 90)]
)
def test_seconds(text, expected):
    assert parse_seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "1x", "h", "1h30", "-5", "1 h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="max_time must be a time"):
        parse_seconds(text)


def test_a_slug_tells_jobs_apart_and_is_a_plain_folder_name():
    assert make_slug(["model=vae", "+model.code=32", "seed=1"]) == "vae-code_32-seed_1"
    assert make_slug(["++model._target_=my_module.MyModel", "model.encoder.widths=[1,2]"]) == "MyModel-widths_1_2"
    assert make_slug(["dataset.path='/a/../b c=d'"]) == "path_a_.._b_c_d"
    assert make_slug([]) == "default"
    assert len(make_slug(["model.code=32"] * 50)) <= 80


def test_a_models_file_chooses_among_the_groups_before_it():
    config = composed("model=dae")
    assert config.noise._target_ == "aectl.data.noise.Gaussian"
    assert composed("model=gan").optimizer.lr == composed("optimizer=adam_gan").optimizer.lr
    assert composed("model=gan").recipe.epochs == OmegaConf.load(Path(conf_dir(), "model", "gan.yaml")).recipe.epochs


def test_the_command_line_wins_over_a_models_file():
    config = composed("noise=masking", "optimizer=sgd", "optimizer.lr=0.5", "epochs=3", "model=dae")
    assert config.noise._target_ == "aectl.data.noise.Masking"
    assert (config.epochs, config.optimizer._target_, config.optimizer.lr) == (3, "torch.optim.SGD", 0.5)


EXPERIMENT = """\
# @package _global_
defaults:
  - override /model: dae
  - override /noise: masking
epochs: 7
model:
  code: 9
"""


@pytest.mark.parametrize(
    ("overrides", "epochs", "code", "noise"),
    [([], 7, 9, "Masking"), (["epochs=2", "model.code=1", "noise=gaussian"], 2, 1, "Gaussian")],
)
def test_an_experiment_wins_over_the_models_file_and_the_command_line_over_both(
    tmp_path, overrides, epochs, code, noise
):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    config = composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", *overrides)
    assert (config.epochs, config.model.code) == (epochs, code)
    assert config.noise._target_.endswith(noise)


def test_run_folders_are_named_by_the_choices():
    config = composed("model=vae", "dataset=digits", hydra=True)
    assert config.hydra.run.dir.startswith("outputs/digits/vae/")
    assert "hydra" not in OmegaConf.to_yaml(composed("model=vae"))


@pytest.mark.parametrize("name", ["eval", "sample"])
def test_other_commands_make_no_folder(name):
    hydra = composed("run=latest", name=name, hydra=True).hydra
    assert (hydra.run.dir, hydra.output_subdir) == (".", None)
    assert not [h for h in hydra.job_logging.handlers.values() if h["class"] == "logging.FileHandler"]
