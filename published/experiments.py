"""The experiments that are held against published numbers, as their files in conf/experiment/ say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

EVALUATION = "# aectl eval run=latest"


@dataclass(frozen=True)
class Experiment:
    """An experiment that is held against published numbers: its references by name.

    `evaluation` are the words behind `aectl eval run=latest` in the file's header, `sweep` the values of what
    `aectl train -m` sweeps, `hydra.sweeper.params` in the file; nothing for one run.
    """

    references: Mapping[str, Any]
    evaluation: tuple[str, ...] = ()
    sweep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def split(self) -> str:
        """The images that the numbers are of."""
        return next((word.removeprefix("split=") for word in self.evaluation if word.startswith("split=")), "test")

    def variants(self) -> list[tuple[str, ...]]:
        """Return the overrides of each run: one without any, or one for each combination of what is swept."""
        choices = [[f"{key}={value}" for value in values] for key, values in self.sweep.items()]
        return list(product(*choices))


def experiments(configs: Path) -> dict[str, Experiment]:
    """Return the experiments of a folder that have references, by name."""
    found = {}
    for path in sorted(configs.glob("*.yaml")):
        config = merged(path)
        if promised := OmegaConf.to_container(config.get("reference") or OmegaConf.create({})):
            params = OmegaConf.select(config, "hydra.sweeper.params") or {}
            sweep = {key: tuple(str(values).replace(" ", "").split(",")) for key, values in params.items()}
            found[path.stem] = Experiment(promised, evaluation(path), sweep)
    return found


def evaluation(path: Path) -> tuple[str, ...]:
    """Return the words behind `aectl eval run=latest` in an experiment's header; none without such a line."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(EVALUATION))
    return tuple(shlex.split(next(lines, EVALUATION).removeprefix(EVALUATION)))


def merged(path: Path) -> DictConfig:
    """Return an experiment's file over those of the experiments that its defaults name."""
    config = OmegaConf.load(path)
    bases = [name for name in config.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    return OmegaConf.merge(*(merged(path.with_name(f"{name}.yaml")) for name in bases), config)


def folder_of(name: str, variant: tuple[str, ...], folder: Path) -> Path:
    """Return the folder of a run among those in `folder`."""
    return folder / name / ",".join(variant) if variant else folder / name


def is_full(name: str, known: Mapping[str, Experiment]) -> bool:
    """Return whether an experiment is a whole protocol for which there is a short one."""
    return f"{name}_short" in known
