"""The text of `aectl --help` and `aectl <command> --help`, with lists read from conf/ and the schemas."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from aectl.config import conf_dir, list_options
from aectl.config.completion_values import registry_calls
from aectl.config.defaults_list import chosen_options, defaults_list
from aectl.config.schema import SCHEMAS

GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device", "sweep", "experiment")

SUMMARY = {
    "train": "train a model; its run gets a folder of its own in outputs/",
    "eval": "measure a trained model on held-out images: verdict, tables, figures",
    "sample": "draw samples, reconstructions and interpolations from a model",
}

EXAMPLES = {
    "train": (
        ("a first look: half a minute, nothing to download", "aectl train dataset=digits"),
        ("a denoising autoencoder", "aectl train model=dae noise=gaussian noise.std=0.5"),
        ("a sweep: nine runs and their table", "aectl train -m model=vae model.code=2,8,32 seed=0,1,2"),
        ("a search among settings", "aectl train -m sweep=search_vae trials=20 epochs=5"),
        ("resume a run, here for longer", "aectl train resume=latest epochs=50"),
        ("your own class", "aectl train model=custom model._target_=my_module.MyModel model.width=64"),
    ),
    "eval": (
        ("list the runs", "aectl eval"),
        ("the last run, on the test images", "aectl eval run=latest"),
        ("several runs, a row for each", "aectl eval 'run=outputs/mnist/*/*'"),
        ("a tighter bound, and nothing else", "aectl eval run=latest only=likelihood nll_samples=5000"),
        ("your own images", "aectl eval run=latest images=photos"),
        ("encoder and decoder for other programs", "aectl eval run=latest export=onnx"),
    ),
    "sample": (
        ("everything the last model can make", "aectl sample run=latest"),
        ("a hundred samples, less varied than the prior", "aectl sample run=latest kind=prior n=100 temperature=0.8"),
        ("an autoencoder samples too", "aectl sample run=latest kind=density density=gaussian"),
        ("interpolate between images on great circles", "aectl sample run=latest kind=interpolation path=spherical"),
        ("a chain of a denoising autoencoder", "aectl sample run=latest kind=chain steps=200"),
    ),
}

OVERVIEW = """\
aectl: train, evaluate and sample autoencoders and small generative networks.

usage: aectl <command> [key=value ...]

commands (aectl <command> --help lists its keys)
{commands}

models (model={model}, the default, or another)
{models}

other choices (group=option), the default first
{groups}

examples
{examples}

sweeps   Separate values by commas and add -m: one run for each combination,
         in parallel on the cores (jobs=2 says how many, fail_fast=true stops at
         a failure), and a table at the end. aectl train -m resume=SWEEP resumes
         it. sweep=optuna lets Optuna choose values.
resume   Ctrl-C stops a run. aectl train resume=RUN resumes it; RUN is its
         folder, or latest.
look     aectl train --cfg job prints the config and runs nothing.
         tensorboard --logdir outputs draws the curves of all runs.
TAB      eval "$(aectl -sc install=bash)" completes commands, keys and options;
         put it into ~/.bashrc. zsh takes the same line,
         fish: aectl -sc install=fish | source
trouble  AECTL_DEBUG=1 shows tracebacks.
"""

COMMAND = """\
aectl {command}: {summary}

usage: aectl {command} [key=value ...]

keys{which}
{keys}
{groups}
examples
{examples}

flags
{flags}
"""

KINDS = ("aectl.sampling", "KINDS")
"""Where the kinds of pictures are declared, read without importing torch."""
RECIPE = ("epochs", "batch_size")
"""Keys that the model's recipe sets if they are null."""
WIDTH = 80
"""Width of the help text in characters."""
MANY = 20
"""A group with more options is listed in part."""

FLAGS = (
    ("-m, --multirun", "run every combination of values separated by commas: seed=0,1,2"),
    ("--cfg job", "show the config instead of running; with -p model only that part of it"),
    ("--info defaults", "show which files the config comes from"),
    ("--config-dir DIR", "also look for options in your own folder: DIR/model/mine.yaml"),
    ("--hydra-help", "flags and settings of Hydra, which reads the command line"),
)


def overview() -> str:
    """Return the text of `aectl --help`."""
    return OVERVIEW.format(
        commands=two_columns(SUMMARY.items()),
        model=defaults("train")["model"],
        models=two_columns(model_lines()),
        groups=two_columns(group_lines([group for group in GROUPS if group != "model"], defaults("train"))),
        examples=example_lines([*EXAMPLES["train"][:4], EXAMPLES["eval"][0]]),
    ).rstrip()


def of_command(command: str, overrides: Sequence[str] = ()) -> str:
    """Return the text of `aectl <command> --help`, with the defaults of a run with these overrides."""
    schema = fields(SCHEMAS[command])
    chosen = defaults(command).get("model")
    # Only a model's YAML changes the schema's defaults; composing takes a tenth of a second.
    config = composed(command, overrides) if chosen else vars(SCHEMAS[command]())
    keys = [(one.name, meaning(one) + default(one, config)) for one in schema]
    listed = [group for group in GROUPS if group in {one.name for one in schema} or command == "train"]
    groups, heading, which = "", "choices", ""
    if chosen:
        listed.remove("model")
        heading = "other choices"
        groups = f"\nmodels (model={chosen}, the default, or another)\n{two_columns(model_lines())}\n"
        which = next((word for word in reversed(overrides) if word.startswith("model=")), f"model={chosen}")
    lines = group_lines(listed, choices(config) if chosen else defaults(command))
    groups += f"\n{heading} (group=option), the default first\n{two_columns(lines)}\n"
    return COMMAND.format(
        command=command,
        summary=SUMMARY[command],
        which=f" [default, with {which}]" if which else " [default]",
        keys=two_columns(keys),
        groups=groups,
        examples=example_lines(EXAMPLES[command]),
        flags=two_columns(FLAGS),
    ).rstrip()


def composed(command: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """Return the composed config of a command; without the overrides if they are wrong."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(conf_dir(), version_base="1.3"):
        try:
            return compose(command, [word for word in overrides if "=" in word], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):
            return compose(command, return_hydra_config=True)


def choices(config: Any) -> dict[str, str]:
    """Return the option of each group in a composed config; the YAML of a model may choose other ones."""
    return {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}


def meaning(one: Field[Any]) -> str:
    """Return what a key means; `{kinds}` in it is the list of the kinds of pictures, each with its meaning."""
    text: str = one.metadata["help"]
    if "{kinds}" not in text:
        return text
    return text.format(kinds=", ".join(f"{name} ({what})" for name, what, *_ in registry_calls(*KINDS)))


def default(one: Field[Any], config: Mapping[str, Any]) -> str:
    """Return the default of a key in brackets; empty for groups and for defaults that say nothing.

    Keys that the config leaves null may be set by the model's recipe.
    """
    value = config.get(one.name)
    if value is None and one.name in RECIPE:
        value = (config.get("recipe") or {}).get(one.name)
    if not isinstance(value, (bool, int, float, str)):
        return ""
    return f" [{str(value).lower() if isinstance(value, bool) else value}]"


def model_lines() -> list[tuple[str, str]]:
    """Return each model with the line that describes it in its YAML, the default first."""
    chosen = defaults("train")["model"]
    names = sorted(list_options()["model"], key=lambda name: (name != chosen, name))
    return [(name, description(Path(conf_dir(), "model", f"{name}.yaml"))) for name in names]


def description(path: Path) -> str:
    """Return the description of a YAML: its first comment that is neither Hydra's nor a command."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#"):
            break
        if text and not text.startswith(("@", "aectl ")):
            return text.removesuffix(".")
    return "no description in its YAML"


def group_lines(groups: Sequence[str], chosen: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each group with its options, the chosen one first; only the first few of a large group."""
    found = list_options()
    lines = []
    for group in groups:
        names = sorted(found.get(group, []), key=lambda name: (name != chosen.get(group), name))
        if len(names) > MANY:
            names = [*names[:3], f"… ({len(names)} in all; TAB, or {group}=x, lists them)"]
        if names:
            lines.append((group, ", ".join(names)))
    return lines


def defaults(command: str) -> dict[str, str]:
    """Return the default option of each group: the command's, or that of the default model's YAML.

    They are read from the files, because composing a config would slow down `aectl --help`.
    """
    chosen = listed_options(Path(conf_dir(), f"{command}.yaml"))
    model = chosen.get("model")
    return chosen | (listed_options(Path(conf_dir(), "model", f"{model}.yaml")) if model else {})


def listed_options(path: Path) -> dict[str, str]:
    """Return the option of each group in the defaults list of a YAML, those after `override` included."""
    entries = [entry for entry in defaults_list(path) if not isinstance(entry, str)]
    return {group: option for entry in entries for group, option in chosen_options(entry).items()}


def example_lines(examples: Iterable[tuple[str, str]]) -> str:
    """Return commands to copy, each below a comment."""
    return "\n".join(f"  # {what}\n  {command}" for what, command in examples)


def two_columns(rows: Iterable[tuple[str, str]]) -> str:
    """Return two columns, the second one wrapped."""
    rows = list(rows)
    left = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - left - 4, break_on_hyphens=False)
        lines += [f"  {name:{left}}  {wrapped[0]}", *(f"  {'':{left}}  {line}" for line in wrapped[1:])]
    return "\n".join(lines)
