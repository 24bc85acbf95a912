"""The table of published rows: what each experiment promises, and what its run in a folder gave."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from aectl.measures import written
from aectl.run import RECORD, Run

BEGIN, END = "<!-- published: begin -->", "<!-- published: end -->"
"""Between these lines of docs/RESULTS.md stands the table."""
HEAD = ("experiment", "measure", "ours", "published", "difference", "bound", "verdict", "device, minutes, commit")


@dataclass(frozen=True)
class Experiment:
    """An experiment that is held against published numbers: its references by name, and the split they are of."""

    references: Mapping[str, Any]
    split: str

    @property
    def tables(self) -> set[str]:
        """The tables that have the numbers."""
        return {one["table"] for one in self.references.values()}


def experiments(configs: Path) -> dict[str, Experiment]:
    """Return the experiments of a folder that have references, by name; a header that evals split=train is heeded."""
    found = {}
    for path in sorted(configs.glob("*.yaml")):
        if promised := OmegaConf.to_container(references(path)):
            found[path.stem] = Experiment(promised, "train" if "split=train" in path.read_text() else "test")
    return found


def references(path: Path) -> DictConfig:
    """Return the references of an experiment's file over those of the experiments that its defaults name."""
    config = OmegaConf.load(path)
    bases = [name for name in config.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    inherited = [references(path.with_name(f"{name}.yaml")) for name in bases]
    return OmegaConf.merge(*inherited, config.get("reference") or {})


def is_full(name: str, known: Mapping[str, Experiment]) -> bool:
    """Return whether an experiment is a whole protocol for which there is a short one."""
    return f"{name}_short" in known


def status(folder: Path) -> str:
    """Return how the run in a folder stands; the empty text if there is none."""
    return str(Run(folder).record.get("status", "")) if (folder / RECORD).is_file() else ""


def rows(known: Mapping[str, Experiment], folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield a row for each reference of each experiment: measured where it was run, else marked "not run"."""
    for name, one in known.items():
        run = Run(folder / name)
        measured = run.metrics.get(one.split, {}).get("published") if status(run.folder) else None
        for label, reference in one.references.items():
            if measured and label in measured:
                yield result(name, label, measured[label], run)
            else:
                value = reference.get("value")
                yield (
                    name,
                    told(label, reference["measure"]),
                    "",
                    "" if value is None else f"{value:g}",
                    "",
                    "",
                    "not run",
                    "",
                )


def told(label: str, measure: str) -> str:
    """Return which number it is: `ais: nll`."""
    return measure if label == measure else f"{label}: {measure}"


def result(name: str, label: str, found: Mapping[str, Any], run: Run) -> tuple[str, ...]:
    """Return the row of a measured number."""
    texts = {key: " ".join(written(found, key)).strip() for key in ("ours", "reference", "difference")}
    return (
        name,
        told(label, found["measure"]),
        texts["ours"],
        texts["reference"] or "no reference",
        texts["difference"],
        str(found["bound"]),
        f"**{found['verdict']}**" if found["verdict"] in ("PASS", "FAIL") else str(found["verdict"]),
        f"{run.record['device']['name']}, {minutes(run):.1f}, {commit(run)}",
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
