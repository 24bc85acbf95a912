"""Many evaluations are announced before the first one begins, and begin only if the user agrees."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aectl.config import ConfigError
from aectl.runs.run import Run
from aectl.system.terminal import display_path, make_console

MAX_WITHOUT_QUESTION = 20
"""Evaluations that begin without a question."""
USUAL_SECONDS, QUICK_SECONDS = 30.0, 8.0
"""What an evaluation takes where none of the runs has been evaluated; a default model on MNIST, on two cores."""


def confirm_evaluations(
    folders: Sequence[Path],
    known: Iterable[Path],
    *,
    tables: Sequence[str] = (),
    yes: bool = False,
    quick: bool = False,
) -> None:
    """Announce more than twenty evaluations with their number and likely time, and ask on a terminal.

    `known` are all runs of the command: evaluations that some of them have say how long one takes, or its `tables`
    alone. With `yes` nothing is asked. Raises ConfigError without a terminal to ask on, and if the answer is no.
    """
    if len(folders) <= MAX_WITHOUT_QUESTION:
        return
    seconds = estimate_seconds(known, quick, tables) * len(folders)
    first, last = display_path(folders[0]), display_path(folders[-1])
    what = f"{len(folders)} runs to evaluate, from {first} to {last}: {format_estimate(seconds)}"
    if yes:
        make_console().print(what, soft_wrap=True)
    elif not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(f"{what}\n  add yes=true to evaluate them all, or name fewer runs")
    else:
        make_console().print(what, soft_wrap=True)
        if input("Evaluate them all? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ConfigError("nothing was evaluated")


def estimate_seconds(folders: Iterable[Path], quick: bool, tables: Sequence[str] = ()) -> float:
    """Return the median seconds of the evaluations that the runs have, or what one usually takes."""
    took = [seconds for folder in folders for seconds in recorded_seconds(Run(folder).metrics, quick, tables)]
    return statistics.median(took) if took else QUICK_SECONDS if quick else USUAL_SECONDS


def recorded_seconds(metrics: Mapping[str, Any], quick: bool, tables: Sequence[str]) -> list[float]:
    """Return how long each evaluation in metrics.json took, quick ones or the others, that has all of the tables."""
    found = []
    for name, section in metrics.items():
        made = section.get("made") if isinstance(section, dict) else None
        if not isinstance(made, dict):
            continue
        has_all = set(tables) <= set(made) if tables else section.get("complete")
        if has_all and name.endswith("quick") == quick:
            wanted = {table: made[table] for table in tables or made}
            times = [one.get("seconds") for one in wanted.values() if isinstance(one, dict)]
            found.append(float(sum(time for time in times if isinstance(time, (int, float)))))
    return found


def format_estimate(seconds: float) -> str:
    """Return a likely time as one says it: about 12 minutes."""
    if seconds < 90:
        return f"about {max(round(seconds), 1)} seconds"
    return f"about {round(seconds / 60)} minutes" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} hours"
