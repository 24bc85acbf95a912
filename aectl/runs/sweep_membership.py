"""Find a run's sweep and job number from the names of its folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PLAN = "sweep.json"
"""The file in a sweep's folder that lists its jobs."""


def job_number(folder: Path) -> int | None:
    """Return the job number that starts a folder's name, as in `3-vae`; None for other names."""
    number = folder.name.partition("-")[0]
    return int(number) if number.isdecimal() else None


def find_sweep(folder: Path) -> Path | None:
    """Return the sweep's folder if a run is one of its jobs, else None."""
    parent = folder.absolute().parent
    is_sweep = any((parent / name).is_file() for name in (PLAN, "multirun.yaml"))
    return parent if is_sweep and job_number(folder.absolute()) is not None else None


def overrides_by_key(overrides: Iterable[str]) -> dict[str, str]:
    """Return a mapping from the keys of overrides to their values."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}
