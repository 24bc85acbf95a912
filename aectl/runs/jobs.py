"""Which job of which sweep a run is, as the names of its folders tell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PLAN = "sweep.json"
"""The file in a sweep's folder that lists its jobs."""


def job_number(folder: Path) -> int | None:
    """Return the number in the name of a job's folder, which all tables call the job by; None of other folders."""
    number = folder.name.partition("-")[0]
    return int(number) if number.isdecimal() else None


def find_sweep(folder: Path) -> Path | None:
    """Return the folder of the sweep that a run is a job of; None of a run by itself."""
    parent = folder.absolute().parent
    is_sweep = any((parent / name).is_file() for name in (PLAN, "multirun.yaml"))
    return parent if is_sweep and job_number(folder.absolute()) is not None else None


def overrides_by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by their keys."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}
