"""The table of published rows: what each experiment promises, and what its run in a folder gave."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from omegaconf import DictConfig, OmegaConf
from scipy.stats import t

from aectl.measures import written
from aectl.run import RECORD, Run

BEGIN, END = "<!-- published: begin -->", "<!-- published: end -->"
"""Between these lines of docs/RESULTS.md stands the table."""
EVALUATION = "# aectl eval run=latest"
HEAD = ("experiment", "measure", "ours", "published", "difference", "bound", "verdict", "device, minutes, commit")


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


def status(folder: Path) -> str:
    """Return how the run in a folder stands; the empty text if there is none."""
    return str(Run(folder).record.get("status", "")) if (folder / RECORD).is_file() else ""


def rows(known: Mapping[str, Experiment], folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row for each reference of each experiment's runs, and the means over seeds; else "not run"."""
    for name, one in known.items():
        runs = {variant: Run(folder_of(name, variant, folder)) for variant in one.variants()}
        for label, reference in one.references.items():
            found = {variant: measured(run, one.split).get(label) for variant, run in runs.items()}
            if not any(found.values()):
                yield unknown(name, label, reference)
                continue
            for variant, numbers in found.items():
                title = " ".join((name, *variant))
                yield result(title, label, numbers, runs[variant]) if numbers else unknown(title, label, reference)
            for others, group in over_seeds(found).items():
                yield mean(" ".join((name, *others)), label, group)


def over_seeds(found: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], list[Any]]:
    """Return what was measured, by what runs differ in beside the seed, where there are several seeds."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for variant, numbers in found.items():
        if numbers:
            groups.setdefault(tuple(word for word in variant if not word.startswith("seed=")), []).append(numbers)
    return {others: group for others, group in groups.items() if len(group) > 1}


def measured(run: Run, split: str) -> Mapping[str, Any]:
    """Return the rows of a run's table of published numbers, nothing where it has none."""
    return run.metrics.get(split, {}).get("published", {}) if status(run.folder) else {}


def unknown(name: str, label: str, reference: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a number that has not been measured."""
    value = reference.get("value")
    text = "" if value is None else value if isinstance(value, str) else f"{value:g}"
    return (name, told(label, reference["measure"]), "", text, "", "", "not run", "")


def mean(name: str, label: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the row of the mean over seeds, with the 95 % interval of Student's t; verdicts are of single runs."""
    several = {key: [one[key] for one in found] for key in ("ours", "reference", "difference") if key in found[0]}
    width = float(t.ppf(0.975, len(found) - 1)) * stdev(several["ours"]) / len(found) ** 0.5
    means = {key: fmean(values) for key, values in several.items()}
    row = {**found[0], **means, "ours_ci95": width, "bound": "", "verdict": ""}
    return (*result_texts(f"{name}, mean of {len(found)} seeds", label, row), "")


def told(label: str, measure: str) -> str:
    """Return which number it is: `ais: nll`."""
    return measure if label == measure else f"{label}: {measure}"


def result(name: str, label: str, found: Mapping[str, Any], run: Run) -> tuple[str, ...]:
    """Return the row of a measured number."""
    return (*result_texts(name, label, found), f"{run.record['device']['name']}, {minutes(run):.1f}, {commit(run)}")


def result_texts(name: str, label: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a measured number but for how it was run."""
    texts = {key: " ".join(written(found, key)).strip() for key in ("ours", "reference", "difference")}
    return (
        name,
        told(label, found["measure"]),
        texts["ours"],
        texts["reference"] or "no reference",
        texts["difference"],
        str(found["bound"]),
        f"**{found['verdict']}**" if found["verdict"] in ("PASS", "FAIL") else str(found["verdict"]),
    )


def minutes(run: Run) -> float:
    """Return the minutes that the epochs of a run took."""
    with (run.folder / "metrics.csv").open(newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file)) / 60


def commit(run: Run) -> str:
    """Return the commit that a run was made by, with a + if files had been changed since."""
    git = run.record.get("git") or {}
    return f"`{git['commit'][:7]}`{'+' if git.get('dirty') else ''}" if git else "unknown"


def write(path: Path, found: Iterator[tuple[str, ...]]) -> None:
    """Put the table between the two marks of a Markdown file; raises ValueError if it has no such marks."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no place for the table: the lines {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    lines = [HEAD, ("---",) * len(HEAD), *found]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    path.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
