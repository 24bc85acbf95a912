"""The command line: help, completion, errors, resume; with stand-ins for the commands."""

import json
import logging
import os
import re
import subprocess
import sys
import types
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from aectl.cli import help
from aectl.cli import main as cli
from aectl.cli.error_messages import suggest_settings
from aectl.cli.hydra_main import admit_new_keys
from aectl.commands.eval_run import chosen_tables
from aectl.commands.train_lock import adopt_hydra_folder
from aectl.config import ConfigError, conf_dir, list_options
from aectl.config.completion_values import parameter_choices
from aectl.config.did_you_mean import MEANINGS, iterate_keys
from aectl.config.import_name import locate
from aectl.config.overrides import LAUNCHERS, split_flags
from aectl.config.schema import SCHEMAS, check_ranges
from aectl.config.type_check import get_hints
from aectl.data.patches import SETS
from aectl.data.toy import KINDS as TOY_KINDS
from aectl.data.toy import Kind
from aectl.densities.registry import DENSITIES
from aectl.evaluation.registry import EVALUATIONS
from aectl.models import nade
from aectl.models.gan import LOSSES, LossName
from aectl.models.networks import ACTIVATIONS, Activation
from aectl.runs.export import FORMATS
from aectl.runs.listing import find_runs
from aectl.runs.run import Run, find_run
from aectl.sampling import KINDS
from aectl.sweep.plan import plan_jobs
from aectl.training.precision import PRECISIONS

TORCH_FREE = """
import sys
from aectl.cli.main import main
sys.argv = ["aectl", *sys.argv[1:]]
try:
    main()
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


@pytest.fixture
def calls(monkeypatch):
    """Put stand-ins in the place of the commands; return the list of what they were called with."""
    seen, behaviours = [], []

    def run(config):
        check_ranges(config)
        seen.append(config)
        for behaviour in behaviours:
            behaviour(config)
        folder = Path(HydraConfig.get().runtime.output_dir)
        device = {"threads": 3, "precision": "bf16"}
        record = {"status": "done", "overrides": list(HydraConfig.get().overrides.task), "device": device}
        if (folder / "train.log").is_file():
            adopt_hydra_folder(Run(folder), HydraConfig.get().output_subdir)
            value = float(config.seed)
            record["objective"] = {"name": "val/loss", "value": value, "epoch": 1}
            (folder / "run.json").write_text(json.dumps(record))
        return 1.0

    for command in SCHEMAS:
        monkeypatch.setitem(sys.modules, f"aectl.commands.{command}", types.SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield types.SimpleNamespace(configs=seen, then=behaviours.append)
    logging.getLogger("aectl.traceback").handlers.clear()


def failing(error):
    def fail(config):
        raise error

    return fail


def runs():
    return sorted(path.parent for path in Path("outputs").glob("*/*/*/run.json"))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_teaches_commands_groups_sweeps_resume_and_tab(aectl, arguments):
    code, out, _ = aectl(*arguments)
    assert code == 0
    for text in ("train", "eval", "sample", "undercomplete, ", "masking", "adamw", "-m", "resume", "-sc install=bash"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) <= 90
    order = [out.index(f"\n{part}") for part in ("usage", "commands", "models", "other choices", "examples", "sweeps")]
    assert order == sorted(order)


@pytest.mark.parametrize("command", SCHEMAS)
def test_help_of_a_command_lists_every_key_with_its_meaning(aectl, command):
    code, out, _ = aectl(command, "--help")
    assert code == 0
    kinds = ", ".join(f"{kind.name} ({kind.meaning})" for kind in KINDS.values())
    for name, field in SCHEMAS[command].__dataclass_fields__.items():
        assert any(line.split()[:1] == [name] for line in out.splitlines())
        assert field.metadata["help"].replace("{kinds}", kinds).split(";")[0] in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("words", [(), ("train",)])
def test_help_says_in_a_line_what_each_model_is(aectl, words):
    lines = aectl(*words, "--help")[1].splitlines()
    for name in list_options()["model"]:
        (said,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(said.split()) > 4
        # Of the YAML, nothing else in between; what is longer would take a second line.
        assert f"# {said.split(maxsplit=1)[1]}.\n" in Path(conf_dir(), "model", f"{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ((), {"schedule": "cosine", "optimizer": "adam", "noise": "none", "device": "auto"}),
        (("train",), {"schedule": "cosine", "optimizer": "adam", "noise": "none"}),
        (("train", "model=gan"), {"noise": "none", "optimizer": "adam_gan"}),
        (("train", "experiment=classic_gan"), {"noise": "instance"}),
        (("train", "model=stacked_dae"), {"noise": "masking"}),
        (("sample",), {"device": "auto"}),
    ],
)
def test_help_lists_the_option_of_the_composed_run_first(aectl, words, first):
    lines = [line.replace(",", "").split() for line in aectl(*words, "--help")[1].splitlines()]
    options_of = {line[0]: line[1:] for line in lines if line and line[0] in first}
    assert {group: options_of[group][0] for group in first} == first
    assert not any("conf/experiment/" in word for line in lines for word in line)


def test_a_new_model_is_described_by_the_header_of_its_yaml(tmp_path):
    texts = {
        "# @package _global_\n# aectl train model=x\n# aectl train model=x model.code=2\n# Mine.\n# More.\n": "Mine",
        "# aectl train model=x\n# Mine, without a package\ncode: 3\n": "Mine, without a package",
        "#\n# Mine alone.\n": "Mine alone",
        "code: 3\n# Not the header.\n": "no description in its YAML",
        "": "no description in its YAML",
    }
    for text, said in texts.items():
        (tmp_path / "x.yaml").write_text(text)
        assert help.description(tmp_path / "x.yaml") == said


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ((), 40),
        (("model=vae",), 30),
        (("model=vae", "epochs=3"), 3),
        (("model=vae2",), 30),
        (("experiment=burda_iwae_1l_k5",), 3280),
        (("-m", "model=vae,gan"), 40),
        (("model=zzz",), 40),
    ],
)
def test_help_gives_the_defaults_of_the_composed_run(aectl, words, epochs):
    code, out, _ = aectl("train", *words, "--help")
    assert code == 0
    keys = out[out.index("\nkeys") : out.index("\nmodels")]
    assert f"[{epochs}]" in " ".join(keys[keys.index("\n  epochs ") : keys.index("\n  batch_size ")].split())


def test_help_of_defaults_leaves_to_the_recipe_what_is_null(monkeypatch):
    monkeypatch.setattr(help, "composed", lambda *_: {"epochs": None, "recipe": {"epochs": 7, "steps": 4000}})
    monkeypatch.setattr(help, "choices", lambda _: {})
    text = help.of_command("train")
    assert "[7]" in text and "4000" not in text


def test_version(aectl):
    assert aectl("--version")[1].startswith("aectl ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["model=dae"], "the command comes first: aectl train model=dae"),
        (["train", "model=daa"], "no model called 'daa'; did you mean 'dae'?"),
        (["train", "model=zzzzz"], "no model called 'zzzzz'\n  there are: "),
        (["train", "model.cod=3"], "no key 'model.cod'; did you mean model.code=3?"),
        (["train", "noise.std=1"], "no key 'noise.std': noise=none has none\n  other options: gaussian"),
        (["train", "noise=gaussian", "noise.sdt=1"], "no key 'noise.sdt'; did you mean noise.std=1?"),
        (["train", "+modl=x"], "no key 'modl'; did you mean model="),
        (["train", "+seed=3"], "seed has a value already: write seed=… without the +"),
        (["train", "~epochs"], "~epochs: it is null already\n  leave it out"),
        (["train", "~epohcs"], "no key 'epohcs'; did you mean epochs=…?"),
        (["train", "dataset=arrays", "dataset.path=x", "dataset.keys=[a,b]"], "as in 'dataset.keys={images: a, labels"),
        (["train", "dataset=arrays", "dataset.keys.images=x"], "did you mean 'dataset.keys={images: x}'?"),
        (
            ["train", "dataset=arrays", "dataset.keys.images=x", "dataset.keys.labels=y"],
            "did you mean 'dataset.keys={images: x, labels: y}'?",
        ),
        (["train", "dataset=arrays", "dataset.images=x"], "did you mean 'dataset.keys={images: x}'?"),
        (["train", "epochs=abc"], "epochs: 'abc' is not a whole number"),
        (["train", "epochs=0"], "epochs must be at least 1, not 0"),
        (["train", "noise=gaussian,masking"], "noise=gaussian,masking gives several values: add -m"),
        (["train", "seed=range(3)"], "seed=range(3) gives several values: add -m"),
        (["train", "vae"], "'vae' is not key=value; did you mean model=vae?"),
        (["train", "tags.why=a=b"], "cannot read "),
        (["train", "--epochs", "3"], "no flag '--epochs': settings are typed without dashes: epochs=3"),
        (["train", "-m", "hydra/launcher=nothing"], "it may need the package hydra-nothing-launcher"),
        (["sample"], "run is missing: type run=latest"),
        (["eval", "run=x", "chekpoint=last"], "no key 'chekpoint'; did you mean checkpoint=last?"),
        (["train", "resume="], "'' is not a run: the folder holds no run.json"),
        (["train", "init_from="], "init_from is empty"),
        (["train", "resume=nowhere"], "'nowhere' is not a run: the folder does not exist"),
        (["train", "-m", "resume=latest"], "no sweep in "),
        (["train", "-m", "resume=nowhere"], "'nowhere' is not a sweep: the folder does not exist"),
        (["train", "-m", "resume=nowhere", "seed=3"], "seed cannot change in a resumed sweep; jobs, fail_fast"),
        (["train", "jobs=2"], "jobs=2 is for sweeps: add -m\n  aectl train -m jobs=2"),
        (["train", "-m", "seed=1,2", "jobs=0"], "jobs must be at least 1, not 0"),
        (["train", "-m", "seed=1,2", "jobs=some"], "jobs"),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(aectl, calls, arguments, message):
    code, out, err = aectl(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"aectl: {message}") or message in err
    assert 1 <= len(err.splitlines()) <= 2
    assert not runs()


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("latent_dim=16", "model.code=16"),
        ("sigma=2", "noise=gaussian noise.std=2"),
        ("data=FashionMNIST", "dataset=fashion_mnist"),
        ("n_trials=9", "trials=9"),
        ("--latent-dim 16", "model.code=16"),
        ("--lr=1", "optimizer.lr=1"),
        ("autoencoder", "model=undercomplete"),
        ("epochs 5", "epochs=5"),
        ("latest", "resume=latest"),
        ("dataset=FashionMNIST", "'fashion_mnist'"),
        ("+lr=3", "optimizer.lr=3"),
    ],
)
def test_a_suggestion_is_what_to_type_with_its_value(aectl, calls, typed, suggested):
    code, _, err = aectl("train", *typed.split())
    assert code == 2
    assert err.splitlines()[0].endswith(f"; did you mean {suggested}?")
    assert len(err.splitlines()) <= 2


CONFIGS = {
    "ae": {"code": 1, "encoder": {"widths": [1]}, "decoder": {"widths": [1]}, "code_dropout": 0, "loss": "mse"},
    "iwae": {"codes": [1], "samples": 5},
    "rbm": {"hidden": 1, "steps": 1},
    "vae": {"code": 1, "beta": 1, "likelihood": "bernoulli"},
}


@pytest.mark.parametrize(
    ("model", "typed", "suggested"),
    [
        ("ae", "latent=16", "model.code=16"),
        ("ae", "bottleneck_size=16", "model.code=16"),
        ("ae", "zDim=16", "model.code=16"),
        ("iwae", "z_dim=16", "'model.codes=[16]'"),
        ("iwae", "k=16", "model.samples=16"),
        ("ae", "hidden=128", "'model.encoder.widths=[128]'"),
        ("ae", "hidden_dims=128,64", "'model.encoder.widths=[128,64]'"),
        ("ae", "model.decoder.hidden=9", "'model.decoder.widths=[9]'"),
        ("rbm", "hidden_units=128", "model.hidden=128"),
        ("rbm", "cd_k=2", "model.steps=2"),
        ("ae", "learning_rate=.1", "optimizer.lr=.1"),
        ("ae", "optimizer.learningRate=.1", "optimizer.lr=.1"),
        ("ae", "batch=3", "batch_size=3"),
        ("ae", "bs=3", "batch_size=3"),
        ("ae", "num_epochs=3", "epochs=3"),
        ("ae", "trainer.max_epochs=3", "epochs=3"),
        ("ae", "wd=3", "optimizer.weight_decay=3"),
        ("ae", "dropout=.1", "model.code_dropout=.1"),
        ("ae", "criterion=bce", "model.loss=bce"),
        ("vae", "kl_weight=2", "model.beta=2"),
        ("vae", "recon_loss=gaussian", "model.likelihood=gaussian"),
        ("ae", "noise_level=2", "noise.std=2"),
        ("ae", "lambda=2", "penalty=l1 penalty.weight=2"),
        ("ae", "random_state=2", "seed=2"),
        ("ae", "gpu=0", "device=cuda"),
        ("ae", "optim=Adam", "optimizer=adam"),
        ("ae", "dataset_name=fashion-mnist", "dataset=fashion_mnist"),
        ("ae", "arch=denoising_autoencoder", "model=dae"),
        ("ae", "data_dir=x", "dataset.root=x"),
        ("ae", "qqqqq=2", None),
    ],
)
def test_suggestions_look_at_meaning_and_name_what_the_config_has(model, typed, suggested):
    groups = {"noise": {"std": 1}, "penalty": {}, "optimizer": {"lr": 1, "weight_decay": 0}, "dataset": {"root": ""}}
    config = {**groups, "model": CONFIGS[model], "device": {}, "epochs": 1, "batch_size": 1, "seed": 0}
    key, _, value = typed.partition("=")
    assert suggest_settings(key, value, config) == ([suggested] if suggested else [])


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("eval latest", "run=latest"),
        ("sample num_samples=3", "n=3"),
        ("eval format=onnx", "export=onnx"),
        ("fit", "'train'"),
    ],
)
def test_suggestions_of_the_other_commands(aectl, calls, typed, suggested):
    code, _, err = aectl(*typed.split())
    assert code == 2
    assert f"; did you mean {suggested}?" in err


def test_every_suggestion_is_a_name_that_aectl_has():
    """Keys of some model or command, options, tables, kinds: nothing is suggested that does not exist anywhere."""
    known = {name for names in list_options().values() for name in names} | {*SCHEMAS, *LAUNCHERS, *KINDS}
    known |= {one.name for one in EVALUATIONS} | {*DENSITIES, "bce", "bernoulli", "mse", "steps", "name"}
    known |= {one.name for schema in SCHEMAS.values() for one in fields(schema)}
    for path in Path(conf_dir()).glob("*/*.yaml"):
        content = (
            {path.parent.name: plain} if "_target_" in (plain := yaml.safe_load(path.read_text()) or {}) else plain
        )
        known |= {key for key, _ in iterate_keys(content)}
    for ours in MEANINGS.values():
        assert {name.partition("=")[0] for name in ours.split()} <= known


@pytest.mark.parametrize(
    "typed",
    ["sweep=optuna model.code=3,4", "sweep=local", "trials=3", "fail_fast=true epochs=2", "hydra/launcher=ray",
     "hydra.launcher.jobs=2", "resume=latest jobs=2", "storage=x"],
)  # fmt: skip
def test_settings_of_a_sweep_without_its_flag_are_refused_with_the_command(aectl, calls, typed):
    code, _, err = aectl("train", *typed.split())
    assert code == 2
    first, second = err.splitlines()
    assert first.endswith("is for sweeps: add -m")
    assert second == f"  aectl train -m {typed}"
    assert not Path("outputs").exists()


def test_several_values_without_the_flag_show_the_whole_command(aectl, calls):
    assert aectl("train", "seed=0,1", "model=vae")[2].splitlines()[1] == "  aectl train -m seed=0,1 model=vae"
    err = aectl("train", "model.encoder.widths=9,8")[2]
    assert "'model.encoder.widths=[9,8]' is a list" in err
    assert "aectl train -m model.encoder.widths=9,8" in err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train epochs=-1", "epochs must be at least 1, not -1"),
        ("train optimizer.lr=abc", "optimizer.lr='abc': it must be a number"),
        ("train init_from=latest", "no run in "),
        ("eval run=latest", "no run in "),
        ("sample run=latest n=0", "n must be at least 1, not 0"),
        ("sample run=latest", "no run in "),
    ],
)
def test_what_needs_no_torch_is_refused_before_the_command_is_imported(aectl, monkeypatch, typed, message):
    imports = types.SimpleNamespace(import_module=lambda name: pytest.fail(f"{name} was imported"))
    monkeypatch.setattr(cli, "importlib", imports)
    code, _, err = aectl(*typed.split())
    assert code == 2
    assert err.startswith(f"aectl: {message}")
    assert not [path for path in Path().rglob("*") if path.is_file()]


def test_errors_of_the_task(aectl, calls):
    calls.then(failing(ConfigError("model.code: too wide")))
    assert aectl("train") == (2, "", "aectl: model.code: too wide\n")
    log = next(Path("outputs").glob("*/*/*/train.log")).read_text()
    assert "Traceback" in log
    assert "too wide" in log


def test_unexpected_errors_name_their_type_and_how_to_see_more(aectl, calls):
    calls.then(failing(ValueError("odd\nsecond line")))
    assert aectl("train") == (1, "", "aectl: ValueError: odd\n  AECTL_DEBUG=1 shows the traceback\n")


def test_tracebacks_come_through_when_asked_for(aectl, calls, monkeypatch):
    monkeypatch.setenv("AECTL_DEBUG", "1")
    calls.then(failing(ConfigError("odd")))
    with pytest.raises(ConfigError, match="odd"):
        aectl("eval", "run=x")


@pytest.mark.parametrize(("error", "expected"), [(SystemExit(7), 7), (KeyboardInterrupt(), 130)])
def test_exits_and_interrupts_pass(aectl, calls, error, expected):
    calls.then(failing(error))
    code, _, err = aectl("train")
    assert code == expected
    assert err == ("aectl: interrupted\n" if expected == 130 else "")


def test_a_folder_that_cannot_be_made_is_one_clear_line(aectl, calls):
    Path("outputs").write_text("in the way")
    code, _, err = aectl("train")
    assert code == 1
    assert err.startswith("aectl: cannot write or read outputs/")
    assert len(err.splitlines()) == 1


def test_a_run_has_its_folder_config_and_log(aectl, calls):
    calls.then(lambda config: logging.getLogger("aectl").info("hello"))
    assert aectl("train", "model=vae", "dataset=digits", "tags.why=test") == (0, "hello\n", "")
    (folder,) = runs()
    assert folder.parent == Path("outputs/digits/vae")
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").tags == {"why": "test"}
    assert (folder / "train.log").read_text().rstrip().endswith("INFO aectl: hello")


@pytest.mark.parametrize("value", ["a,b", "outputs/*/vae", "a[1]/b", "it's, here", "C:/x", "'a,b'", "x=1/y"])
def test_paths_may_have_characters_that_mean_something_to_hydra(aectl, calls, value):
    assert aectl("eval", f"run={value}")[0] == 0
    assert calls.configs[0].run == value.strip("'")


def test_several_tables_may_stand_without_brackets(aectl, calls):
    assert aectl("eval", "run=x", "only=codes,probes")[0] == 0
    assert aectl("eval", "run=x", "only=[codes,probes]")[0] == 0
    assert [chosen_tables(config) for config in calls.configs] == [["codes", "probes"]] * 2


@pytest.mark.parametrize("command", ["eval", "sample"])
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_other_commands_leave_no_trace(aectl, calls, command, sweep):
    code, _, err = aectl(command, "run=x", *sweep, "seed=1,2" if sweep else "seed=1")
    assert (code, err) == (0, "")
    assert len(calls.configs) == 1 + len(sweep)
    assert not list(Path().iterdir())


def test_ones_own_class_takes_new_keys_and_is_found_in_the_working_folder(aectl, calls):
    assert aectl("train", "model=custom", "model._target_=my_module.MyModel", "model.width=3")[0] == 0
    assert calls.configs[0].model == {"_target_": "my_module.MyModel", "width": 3}
    assert sys.path[-1] == str(Path.cwd())
    assert aectl("train", "model=vae", "model.width=3")[0] == 2


def test_show_config_after_overrides(aectl):
    code, out, _ = aectl("train", "model=vae", "--cfg", "job", "epochs=3")
    assert code == 0
    assert OmegaConf.create(out).epochs == 3


def test_name_is_that_of_the_runs_folder_and_is_accepted_for_a_run(aectl, calls):
    for _ in range(2):
        assert aectl("train", "model=vae", "dataset=digits", "name=baseline")[0] == 0
    assert runs() == [Path("outputs/digits/vae/baseline"), Path("outputs/digits/vae/baseline-2")]
    assert find_run("baseline") == runs()[0]
    assert find_runs("baseline-2") == [runs()[1]]
    assert aectl("train", "resume=baseline", "epochs=9")[0] == 0
    assert calls.configs[-1].resume == str(runs()[0].absolute())
    assert aectl("train", "model=dae", "dataset=digits", "name=baseline")[0] == 0
    assert (
        "'baseline' names 2 runs\n  type one of outputs/digits/dae/baseline, " in aectl("train", "resume=baseline")[2]
    )
    assert find_run("baseline-2") == runs()[2]


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".x", "-x", "a b", "latest", "x.", "a\\\\b", "x" * 101, "''", "*", "$HOME"]
)
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_name_that_is_none_of_a_folder_is_refused(aectl, calls, name, sweep):
    code, _, err = aectl("train", *sweep, "dataset=digits", f"name={name}")
    assert code == 2
    assert err.startswith(("aectl: name must be a folder name of letters", "aectl: cannot read name="))
    assert not Path("outputs").exists()


def test_a_sweep_has_its_name_and_its_jobs_the_name_with_their_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", ["dataset=digits", "name=grid"], return_hydra_config=True)
    assert config.hydra.sweep.dir == "outputs/multirun/grid"
    jobs = plan_jobs(
        Path(config.hydra.sweep.dir), [["dataset=digits", "seed=0", "name=grid"], ["name=x", "dataset=digits"]]
    )
    assert [job.folder.name for job in jobs] == ["0-grid-digits-seed_0", "1-x-digits"]
    for job in jobs:
        job.folder.mkdir(parents=True)
        (job.folder / "run.json").write_text("{}")
    assert find_runs("grid") == [job.folder for job in jobs]


def test_flags_are_put_first():
    assert split_flags(["a=1", "-m", "b=2"]) == (["-m"], ["a=1", "b=2"])
    assert split_flags(["a=1", "--cfg", "b=2"]) == (["--cfg", "job"], ["a=1", "b=2"])
    assert split_flags(["--info", "defaults", "a=1", "-p", "model"]) == (["--info", "defaults", "-p", "model"], ["a=1"])


def test_new_keys_are_admitted_below_a_typed_target_alone():
    typed = ["model._target_=a.B", "model.x=1", "noise.x=1", "tags.x=1", "modelling.x=1"]
    assert admit_new_keys(typed) == ["++model._target_=a.B", "++model.x=1", "noise.x=1", "++tags.x=1", "modelling.x=1"]


def test_a_sweep_ends_in_a_table(aectl, calls):
    code, out, err = aectl("train", "model=vae", "seed=2,1", "-m", "dataset=digits", "hydra/launcher=basic")
    assert (code, err) == (0, "")
    assert [path.name for path in runs()] == ["0-vae-seed_2-digits", "1-vae-seed_1-digits"]
    assert ["*", "1", "1", "1", "1", "done"] in [line.split() for line in out.splitlines()]
    assert len(list(Path("outputs/multirun").glob("*/sweep.csv"))) == 1


def test_a_sweep_with_a_failed_run_ends_in_code_1_after_the_table(aectl, calls):
    def fail(config):
        if config.seed == 1:
            folder = Path(HydraConfig.get().runtime.output_dir)
            (folder / "run.json").write_text(json.dumps({"status": "failed", "error": "boom", "overrides": ["seed=1"]}))
            (folder / "train.log").unlink()

    calls.then(fail)
    code, out, _ = aectl("train", "-m", "seed=1,2", "hydra/launcher=basic")
    assert code == 1
    assert "1 of 2 runs failed" in out
    assert "boom" in out


def test_resume_starts_from_the_stored_config_in_the_runs_own_folder(aectl, calls):
    aectl("train", "model=vae", "dataset=digits", "model.code=5", "trust=elsewhere", "epochs=2")
    (folder,) = runs()
    for number, epochs in ((1, 3), (2, 4)):
        assert aectl("train", f"resume={folder}", f"epochs={epochs}")[0] == 0
        config = calls.configs[-1]
        assert (config.model.code, config.epochs, config.resume) == (5, epochs, str(folder.absolute()))
        assert (config.device.threads, config.device.precision) == (3, "bf16")
        assert config.trust == []
        assert OmegaConf.load(folder / f".hydra.{number}" / "config.yaml").epochs == epochs
        assert OmegaConf.load(folder / f".hydra.{number}" / "hydra.yaml").hydra.runtime.choices.model == "vae"
    assert aectl("train", "resume=latest", "device.threads=1", "device.precision=fp32", "trust=[mine]")[0] == 0
    config = calls.configs[-1]
    assert (config.epochs, config.device.threads, config.trust) == (4, 1, ["mine"])
    assert config.device.precision == "fp32"
    assert runs() == [folder]


def test_resume_does_not_let_a_run_speak_for_itself(aectl, calls):
    aectl("train", "dataset=digits")
    (folder,) = runs()
    stored = OmegaConf.load(folder / ".hydra" / "config.yaml")
    stored.hydra = {"callbacks": {"x": {"_target_": "os.abort"}}, "job": {"chdir": True}}
    OmegaConf.save(stored, folder / ".hydra" / "config.yaml")
    assert aectl("train", "resume=latest")[0] == 0
    assert "x" not in OmegaConf.load(folder / ".hydra.1" / "hydra.yaml").hydra.callbacks


def test_resume_refuses_what_would_make_another_run(aectl, calls):
    aectl("train", "dataset=digits")
    code, _, err = aectl("train", "resume=latest", "model.code=3")
    assert code == 2
    can = "epochs, steps, max_time, patience, trust, data and device.* can"
    assert f"model.code cannot change in a resumed run; {can}" in err
    assert "init_from=latest model.code=3" in err
    assert "no key 'num_epochs'; did you mean epochs=9?" in aectl("train", "resume=latest", "num_epochs=9")[2]
    for typed in ("device=cpu", "hydra.run.dir=x", "hydra.output_subdir=x", "+model.x=3"):
        assert aectl("train", "resume=latest", typed)[0] == 2


@pytest.mark.parametrize(
    ("line", "found", "absent"),
    [
        ("aectl ", {"train", "eval", "sample"}, {"model="}),
        ("aectl tr", {"train"}, {"eval"}),
        ("aectl train mod", {"model=", "model."}, {"noise="}),
        ("aectl train model=v", {"model=vae"}, {"model=dae"}),
        ("aectl train -m noise=gaussian noise.s", {"noise.std="}, set()),
        ("aectl train noise=gaussian -m noise.s", {"noise.std="}, set()),
        ("aectl train --mul", {"--multirun"}, {"--cfg"}),
        ("aectl eval che", {"checkpoint="}, set()),
        ("aectl eval run=", {"run=latest"}, set()),
        ("aectl unknown mod", set(), {"model="}),
        ("aectl train --bogus mod", set(), {"model="}),
    ],
)
def test_tab_completes_commands_groups_options_keys_and_runs(aectl, monkeypatch, line, found, absent):
    monkeypatch.setenv("COMP_LINE", line)
    code, out, err = aectl("-sc", "query=bash")
    assert (code, err) == (0, "")
    assert found <= set(out.split())
    assert not absent & set(out.split())


def test_tab_completes_run_folders(aectl, calls, monkeypatch):
    aectl("train", "dataset=digits")
    monkeypatch.setenv("COMP_LINE", "aectl train resume=out")
    assert aectl("-sc", "query=bash")[1].split() == [f"resume={runs()[0]}"]


def test_shells_get_their_script(aectl):
    code, out, _ = aectl("-sc", "install=bash")
    assert code == 0
    assert out.rstrip().endswith("hydra_bash_completion aectl")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--cfg", "job"], ["train", "epocs=3"]])
def test_quick_answers_come_without_torch(arguments, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1])])}
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert "torch was imported" not in done.stderr
    assert done.returncode == (2 if "epocs=3" in arguments else 0)


def test_python_m_aectl(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "aectl", "trian"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 2
    assert "did you mean 'train'?" in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("eval only=", [one.name for one in EVALUATIONS]),
        ("eval only=[codes,pro", ["[codes,probes"]),
        ("eval only=codes,c", ["codes,clusters", "codes,chains", "codes,classes", "codes,classification"]),
        ("eval split=", ["test", "valid", "train"]),
        ("eval checkpoint=", ["best", "last"]),
        ("eval export=", list(FORMATS)),
        ("eval outliers=m", ["mnist"]),
        ("eval figures=", ["true", "false"]),
        ("sample kind=", ["all", *KINDS]),
        ("sample path=", ["auto", "linear", "spherical"]),
        ("sample density=g", ["gaussian"]),
        ("eval sampler=gaussian,m", ["gaussian,mixture"]),
        ("train model.loss=", ["mse", "bce"]),
        ("train model=gan model.loss=", list(LOSSES)),
        ("train model=vae model.likelihood=", ["bernoulli", "gaussian"]),
        ("train model=vae2 model.bound=", ["vae", "iwae"]),
        ("train model=dbm model.binarise=", ["draw", "threshold"]),
        ("train model.encoder.code_activation=", list(ACTIVATIONS)),
        ("train model.encoder.norm=", ["none", "batch", "spectral"]),
        ("train model.tied=t", ["true"]),
        ("train dataset=toy dataset.kind=", list(TOY_KINDS)),
        ("train dataset=patches dataset.of=", list(SETS)),
        ("train device.name=c", ["cpu", "cuda"]),
        ("train device.precision=", list(PRECISIONS)),
        ("train -m tri", ["trials="]),
    ],
)
def test_tab_completes_the_values_that_the_checks_allow(aectl, monkeypatch, line, expected):
    monkeypatch.setenv("COMP_LINE", f"aectl {line}")
    key, equals, _ = line.split()[-1].rpartition("=")
    assert aectl("-sc", "query=bash")[1].split() == [f"{key}{equals}{value}" for value in expected]


def allowed(hint):
    """Return what a type hint lists, as one types it."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return [str(one) for one in get_args(hint)]
    return [value for one in get_args(hint) for value in allowed(one)] if get_origin(hint) in (Union, UnionType) else []


def test_choices_read_from_source_are_those_that_the_check_reads_from_annotations():
    names = {
        name
        for path in Path(conf_dir()).glob("*/*.yaml")
        for name in re.findall(r"_target_: (aectl\.\S+)", path.read_text())
    }
    found = {}
    for name in names:
        for parameter, hint in get_hints(locate(name)).items():
            found[f"{name} {parameter}"] = allowed(hint)
            assert parameter_choices(name, parameter) == allowed(hint), (name, parameter)
    assert sum(len(values) > 2 for values in found.values()) > 10


@pytest.mark.parametrize(
    ("annotation", "registry"),
    [(Activation, ACTIVATIONS), (LossName, LOSSES), (Kind, TOY_KINDS), (nade.Activation, nade.ACTIVATIONS)],
)
def test_annotations_list_what_is_registered(annotation, registry):
    assert list(get_args(annotation)) == list(registry)


def test_tab_reads_ones_own_class_without_importing_it(aectl, monkeypatch):
    code = "from typing import Literal\nraise SystemExit\nclass Mine:\n"
    code += "    def __init__(self, way: Literal['up', 'down']): ..."
    Path("my_choices.py").write_text(code)
    monkeypatch.setenv("COMP_LINE", "aectl train model=custom model._target_=my_choices.Mine model.way=")
    assert aectl("-sc", "query=bash")[1].split() == ["model.way=up", "model.way=down"]
