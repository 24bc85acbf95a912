"""The text of `aectl --help` and `aectl <command> --help`, its lists read from conf/ and the schemas."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from aectl.config import conf_dir, options
from aectl.config.schema import SCHEMAS

GROUPS = ("model", "dataset", "noise", "penalty", "optimizer", "schedule", "device", "sweep", "experiment")

SUMMARY = {
    "train": "train a model; its run gets a folder of its own in outputs/",
    "eval": "how good a run's model is, on images it was not trained on: numbers and figures",
    "sample": "pictures that a run's model makes: samples, reconstructions, interpolations",
}

EXAMPLES = {
    "train": (
        ("a first look, nothing to download", "aectl train dataset=digits epochs=5"),
        ("a denoising autoencoder", "aectl train model=dae noise=gaussian noise.std=0.5"),
        ("a sweep: nine runs and their table", "aectl train -m model=vae model.code=2,8,32 seed=0,1,2"),
        ("a search among settings", "aectl train -m sweep=search_vae trials=20 epochs=5"),
        ("go on with a run, here for longer", "aectl train resume=latest epochs=50"),
        ("one's own class", "aectl train model=custom model._target_=my_module.MyModel model.width=64"),
    ),
    "eval": (
        ("which runs there are", "aectl eval"),
        ("the last run, on the test images", "aectl eval run=latest"),
        ("several runs, a row for each", "aectl eval 'run=outputs/mnist/*/*'"),
        ("a tighter bound, and nothing else", "aectl eval run=latest only=likelihood nll_samples=5000"),
        ("one's own images", "aectl eval run=latest images=photos"),
        ("encoder and decoder for elsewhere", "aectl eval run=latest export=onnx"),
    ),
    "sample": (
        ("all that the last model can make", "aectl sample run=latest"),
        ("a hundred likely samples", "aectl sample run=latest kind=prior n=100 temperature=0.8"),
        ("an autoencoder samples too", "aectl sample run=latest kind=density density=gaussian"),
        ("from image to image, on great circles", "aectl sample run=latest kind=interpolation path=spherical"),
        ("a denoising autoencoder walks on", "aectl sample run=latest kind=chain steps=200"),
    ),
}

OVERVIEW = """\
aectl: train, evaluate and sample autoencoders and small generative networks.

usage: aectl <command> [key=value ...]

commands (aectl <command> --help lists what each can be told)
{commands}

choices (group=option), the default ones first
{groups}

examples
{examples}

sweeps      give a key several values, separated by commas, and add -m: one run for each combination, side by
            side on the cores (jobs=2 says how many, fail_fast=true stops at a failure), a table at the end.
            aectl train -m resume=SWEEP goes on with what is not done; sweep=optuna lets Optuna choose values,
            sweep=fused stacks small nets into one program.
resume      Ctrl-C stops a run so that it can go on: aectl train resume=RUN. RUN is its folder, or latest.
look        aectl train --cfg job shows the config that a command would use, without running it.
            tensorboard --logdir outputs draws the curves of all runs.
TAB         eval "$(aectl -sc install=bash)" completes commands, keys and options; put it into ~/.bashrc.
            zsh takes the same line, fish: aectl -sc install=fish | source
trouble     AECTL_DEBUG=1 shows tracebacks.
"""

COMMAND = """\
aectl {command}: {summary}

usage: aectl {command} [key=value ...]

keys
{keys}
{groups}
examples
{examples}

flags
{flags}
"""

FLAGS = (
    ("-m, --multirun", "run every combination of values separated by commas: seed=0,1,2"),
    ("--cfg job", "show the config instead of running; with -p model only that part of it"),
    ("--info defaults", "show which files the config comes from"),
    ("--config-dir DIR", "look for options in one's own folder too: DIR/model/mine.yaml"),
    ("--hydra-help", "flags and settings of Hydra, which reads the command line"),
)


def overview() -> str:
    """Return the text of `aectl --help`."""
    return OVERVIEW.format(
        commands=columns(SUMMARY.items()),
        groups=columns(group_lines("train", GROUPS)),
        examples=columns([*EXAMPLES["train"][:4], EXAMPLES["eval"][0]]),
    ).rstrip()


def of_command(command: str) -> str:
    """Return the text of `aectl <command> --help`."""
    schema = fields(SCHEMAS[command])
    keys = [(one.name, one.metadata["help"] + default(one)) for one in schema]
    choices = [group for group in GROUPS if group in {one.name for one in schema} or command == "train"]
    groups = f"\nchoices (group=option), the default ones first\n{columns(group_lines(command, choices))}\n"
    return COMMAND.format(
        command=command,
        summary=SUMMARY[command],
        keys=columns(keys),
        groups=groups,
        examples=columns(EXAMPLES[command]),
        flags=columns(FLAGS),
    ).rstrip()


def default(one: Field[Any]) -> str:
    """Return a key's default in brackets, nothing where it is a choice or says nothing."""
    value = one.default
    if value is MISSING or value is None:
        return ""
    return f" [{str(value).lower() if isinstance(value, bool) else value}]"


def group_lines(command: str, groups: Sequence[str]) -> list[tuple[str, str]]:
    """Return each group that has options with them, the default one first."""
    found, chosen = options(), defaults(command)
    lines = []
    for group in groups:
        names = sorted(found.get(group, []), key=lambda name: (name != chosen.get(group), name))
        if names:
            lines.append((group, ", ".join(names)))
    return lines


def defaults(command: str) -> dict[str, str]:
    """Return the default option of each group, as the command's file in conf/ lists it."""
    from omegaconf import OmegaConf

    listed = OmegaConf.load(Path(conf_dir(), f"{command}.yaml")).defaults
    chosen = [pair for entry in listed if not isinstance(entry, str) for pair in entry.items()]
    return {str(group): str(option) for group, option in chosen}


def columns(rows: Iterable[tuple[str, str]]) -> str:
    """Return two columns, the second one wrapped."""
    rows = list(rows)
    width = max(len(left) for left, _ in rows)
    lines = []
    for left, right in rows:
        wrapped = textwrap.wrap(right, max(120 - width, 40), break_on_hyphens=False)
        lines += [f"  {left:{width}}  {wrapped[0]}", *(f"  {'':{width}}  {line}" for line in wrapped[1:])]
    return "\n".join(lines)
