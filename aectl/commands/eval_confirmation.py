"""Ask for confirmation before many evaluations."""

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
"""Largest number of evaluations that start without confirmation."""
USUAL_SECONDS, QUICK_SECONDS = 30.0, 8.0
"""Assumed seconds per evaluation if no run has been evaluated yet: a default model on MNIST, two cores."""


def confirm_evaluations(
    folders: Sequence[Path],
    known: Iterable[Path],
    *,
    tables: Sequence[str] = (),
    yes: bool = False,
    quick: bool = False,
) -> None:
    """Ask for confirmation of more than `MAX_WITHOUT_QUESTION` evaluations, with their number and estimated time.

    The estimate uses past evaluations, or past `tables`, of the runs `known`. With `yes` nothing is asked. Raises
    ConfigError if there is no terminal or the answer is no.
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
    """Return the median seconds of the runs' past evaluations, or a default without any."""
    took = [seconds for folder in folders for seconds in recorded_seconds(Run(folder).metrics, quick, tables)]
    return statistics.median(took) if took else QUICK_SECONDS if quick else USUAL_SECONDS


def recorded_seconds(metrics: Mapping[str, Any], quick: bool, tables: Sequence[str]) -> list[float]:
    """Return the seconds of each evaluation in metrics.json with all of `tables`; only quick ones if `quick`."""
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
    """Return an estimated time in words, e.g. `about 12 minutes`."""
    if seconds < 90:
        return f"about {max(round(seconds), 1)} seconds"
    return f"about {round(seconds / 60)} minutes" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} hours"
