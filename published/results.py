"""What the runs of published rows came to, kept in docs/published.json: their folders need not be kept for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aectl.runs.run import RECORD, Run
from published.experiments import Experiment, folder_of

Results = Mapping[str, Mapping[str, Any]]
"""By the run's title: its `device`, `minutes` and `commit`, and by reference the `numbers` that were measured."""


def title(name: str, variant: tuple[str, ...]) -> str:
    """Return what a run is called: the experiment, and what it overrides."""
    return " ".join((name, *variant))


def read(path: Path) -> dict[str, Any]:
    """Return the results of a file; none if it is not there."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write(path: Path, results: Results) -> None:
    """Write results into a file, by their titles' order."""
    text = json.dumps(dict(sorted(results.items())), indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def gathered(known: Mapping[str, Experiment], folder: Path) -> dict[str, Any]:
    """Return the results of the experiments' runs in a folder, those that have been evaluated."""
    found = {}
    for name, one in known.items():
        for variant in one.variants():
            run = Run(folder_of(name, variant, folder))
            if numbers := measured(run, one):
                found[title(name, variant)] = {
                    "device": run.record["device"]["name"],
                    "minutes": round(minutes(run), 1),
                    "commit": commit(run),
                    "numbers": numbers,
                }
    return found


def status(folder: Path) -> str:
    """Return how the run in a folder stands; the empty text if there is none."""
    return str(Run(folder).record.get("status", "")) if (folder / RECORD).is_file() else ""


def measured(run: Run, one: Experiment) -> Mapping[str, Any]:
    """Return the rows of a run's table of published numbers, nothing where it has none."""
    return run.metrics.get(one.split, {}).get("published", {}) if status(run.folder) else {}


def minutes(run: Run) -> float:
    """Return the minutes that the epochs of a run took."""
    with (run.folder / "metrics.csv").open(newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file)) / 60


def commit(run: Run) -> str:
    """Return the commit that a run was made by, with a + if files had been changed since."""
    git = run.record.get("git") or {}
    return git["commit"][:7] + "+" * bool(git.get("dirty")) if git else "unknown"
