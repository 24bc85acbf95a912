"""List runs, and find the runs that `run=` names. Imports no torch, so that listing is fast."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aectl.config import ConfigError
from aectl.config.untrusted_files import read_json
from aectl.runs.run import OUTPUTS, RECORD, Run, find_run, find_runs_by_name, iterate_runs, last_start, suggest_run
from aectl.runs.run_json import FORMAT, NewerFormat, check_format
from aectl.system.file_lock import FileLock, Timeout
from aectl.system.terminal import display_path, format_significant, make_console
from aectl.system.terminal_table import GAP, cell_width, format_rows_with_paths

MAX_LISTED = 30
"""Runs in the list printed by `aectl eval`."""
HEADINGS = ("model", "data", "status", "objective", "age", "MB", "eval")
SHORT_NAMES = {"energy_distance": "energy", "negative_elbo": "-ELBO"}
"""Abbreviations of long metric names."""
SEARCH_DEPTH = 4
"""Levels searched below a folder that is neither a sweep nor outputs/; enough for the parent of outputs/."""
SWEEP_FILES = ("sweep.json", "multirun.yaml")
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")
AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def print_runs(root: Path = OUTPUTS) -> None:
    """Print the latest runs under `root`, newest first, and the command to type next."""
    out = make_console()
    runs = sorted(iterate_runs(root), key=last_start, reverse=True)
    if not runs:
        out.print(f"no run in {display_path(root)} yet; make one: aectl train model=dae dataset=digits", soft_wrap=True)
        return
    latest = runs[:MAX_LISTED]
    headings, rows = drop_size(HEADINGS, [describe_run(folder) for folder in latest], out.width)
    lines = format_rows_with_paths(headings, rows, [display_path(folder) for folder in latest], out.width)
    for number, line in enumerate(lines):
        out.print(line, style=None if number else "bold", soft_wrap=True)
    if len(runs) > MAX_LISTED:
        out.print(f"and {len(runs) - MAX_LISTED} more in {display_path(root)}", soft_wrap=True)
    # `latest` only looks in outputs/.
    name = "latest" if root == OUTPUTS else shlex.quote(display_path(latest[0]))
    out.print(f"\nnext: aectl eval run={name}", soft_wrap=True)


def drop_size(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return headings and rows, without the MB column if lines would be longer than `width`."""
    sizes = [max(map(cell_width, column)) for column in zip(headings, *rows, strict=True)]
    if sum(sizes) + GAP * (len(sizes) - 1) <= width:
        return headings, rows
    place = headings.index("MB")
    headings, *rows = ([*row[:place], *row[place + 1 :]] for row in (headings, *rows))
    return headings, rows


def describe_run(folder: Path) -> list[str]:
    """Return a run's cells in the order of `HEADINGS`, with dashes for values missing from a damaged record."""
    run = Run(folder)
    try:
        # Not `run.record`, which refuses a partly damaged record: the valid entries are still listed.
        record = read_json(folder / RECORD)
        check_format(record, FORMAT, folder / RECORD)
    except NewerFormat:
        return ["–", "–", "newer aectl", "–", format_age(folder), folder_megabytes(folder), evaluated_splits(run)]
    except ConfigError:
        return ["–", "–", "damaged", "–", "–", folder_megabytes(folder), evaluated_splits(run)]
    stored = record.get("choices")
    choices = stored if isinstance(stored, dict) else {}
    names = [str(choices.get(key) or "–") for key in ("model", "dataset")]
    return [
        *names,
        get_status(folder, record),
        format_objective(record),
        format_age(folder),
        folder_megabytes(folder),
        evaluated_splits(run, record),
    ]


def get_status(folder: Path, record: dict[str, Any]) -> str:
    """Return a run's status; `killed` if its record says `running` but no process holds its lock."""
    stored = str(record.get("status") or "–")
    return "killed" if stored == "running" and not is_locked(folder) else stored


def is_locked(folder: Path) -> bool:
    """Return whether a process, on this machine or another that shares the disk, is training the run."""
    path = folder / ".lock"
    # Locking through a link could truncate the file that it points to.
    if path.is_symlink() or not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        # Locked, or in a folder without write permission, where the record is trusted.
        return True
    lock.release()
    return False


def format_objective(record: dict[str, Any]) -> str:
    """Return the name and the best value of the objective."""
    found = record.get("objective")
    if not isinstance(found, dict) or not isinstance(found.get("value"), (int, float)):
        return "–"
    try:
        name = str(found.get("name")).removeprefix("val/")
        return f"{SHORT_NAMES.get(name, name)} {format_significant(found['value'])}"
    except OverflowError:
        return "–"


def format_age(folder: Path) -> str:
    """Return the time since the last start or resume, e.g. `3 h`."""
    try:
        start = datetime.fromisoformat(last_start(folder))
        seconds = (datetime.now(timezone.utc) - start).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return "–"
    unit, name = next(((unit, name) for unit, name in AGES if seconds >= unit), AGES[-1])
    return f"{max(int(seconds // unit), 0)} {name}"


def folder_megabytes(folder: Path) -> str:
    """Return the size of a folder on disk in MB."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            # A running job may rename its checkpoints at this moment.
            continue
    return f"{total / 1e6:.1f}"


def evaluated_splits(run: Run, record: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return the splits that a run was evaluated on, `test (stale)` if its checkpoint has changed since."""
    sections = {n: found for n, found in run.metrics.items() if isinstance(found, dict) and "checkpoint" in found}
    epochs = checkpoint_epochs(record)
    return ", ".join(name + " (stale)" * is_stale(section, epochs) for name, section in sections.items()) or "no"


def checkpoint_epochs(record: Mapping[str, Any]) -> dict[str, int]:
    """Return the epochs of the checkpoints best and last that the record knows."""
    goal = record.get("objective")
    known = {"best": goal.get("epoch") if isinstance(goal, dict) else None, "last": record.get("epochs")}
    return {name: epoch for name, epoch in known.items() if isinstance(epoch, int)}


def is_stale(section: Mapping[str, Any], epochs: Mapping[str, int]) -> bool:
    """Return whether an evaluation, or one of its tables, used another epoch than the present checkpoint's."""
    made = section.get("made")
    origins = [one for one in made.values() if isinstance(one, dict)] if isinstance(made, dict) else []
    known = [(str(one.get("checkpoint")), one.get("epoch")) for one in (section, *origins)]
    return any(isinstance(epoch, int) and epoch != epochs.get(name, epoch) for name, epoch in known)


def find_runs(text: str) -> list[Path]:
    """Return the folders of the runs that `text` names, each once.

    `text` is a comma-separated list. Each item is a run's folder, `latest`, a sweep, outputs/, a glob, or another
    folder, which is searched `SEARCH_DEPTH` levels deep. Raises ConfigError if an item matches no run.
    """
    items = [text] if Path(text).expanduser().exists() else [item.strip() for item in text.split(",")]
    found = [folder for item in items if item for folder in find_named_runs(item)]
    if not found:
        raise ConfigError("run is empty: type run=latest, or run=<folder of the run>")
    once: dict[Path, Path] = {}
    for folder in found:
        once.setdefault(folder.resolve(), folder)
    return list(once.values())


def find_named_runs(item: str) -> Iterable[Path]:
    """Return the folders of the runs that one item names; those of a sweep in job order."""
    folder = Path(item).expanduser()
    if item == "latest" or (folder / RECORD).is_file():
        return [find_run(item)]
    if not folder.exists() and Path(item).name == item:
        # The name= of a sweep or a run.
        if (sweep := OUTPUTS / "multirun" / item).is_dir():
            folder = sweep
        elif find_runs_by_name(item):
            return [find_run(item)]
    places, levels = ([folder], SEARCH_DEPTH) if folder.is_dir() else (expand_glob(folder), remaining_depth(folder))
    found = {run for place in places for run in find_runs_in(place, levels)}
    # Runs inside a run's folder are not listed.
    runs = sorted((run for run in found if found.isdisjoint(run.parents)), key=natural_sort_key)
    if not runs:
        what = (
            f"it does not exist{suggest_run(item)}"
            if not places
            else f"no run.json in it or up to {SEARCH_DEPTH} levels below"
        )
        raise ConfigError(f"'{item}' names no run: {what}")
    return runs


def expand_glob(pattern: Path) -> list[Path]:
    """Return the paths that match a glob; with `**`, which matches up to `SEARCH_DEPTH` folders, only the runs."""
    depths = [range(SEARCH_DEPTH + 1) if part == "**" else (1,) for part in pattern.parts]
    try:
        found: list[Path] = []
        for depth in product(*depths):
            parts = [part for part, times in zip(pattern.parts, depth, strict=True) for part in times * [part]]
            tried = Path(*("*" if part == "**" else part for part in parts))
            rest = str(tried.relative_to(tried.anchor))
            found += [tried] if rest == "." else Path(tried.anchor).glob(rest)
    except ValueError:
        return []
    if "**" not in pattern.parts:
        return found
    hidden = [path for path in found if any(part.startswith(".") and part not in pattern.parts for part in path.parts)]
    return [path for path in set(found) - set(hidden) if is_file(path / RECORD)]


def remaining_depth(pattern: Path) -> int:
    """Return the levels left to search below the matches of a glob; each wildcard uses one."""
    return max(SEARCH_DEPTH - sum("*" in part for part in pattern.parts), 0)


def find_runs_in(place: Path, levels: int) -> Iterator[Path]:
    """Yield `place` if it is a run, else the runs in it: all of a sweep or outputs/, otherwise `levels` deep."""
    if is_file(place / RECORD):
        yield place
    elif place.name == OUTPUTS.name or any(is_file(place / name) for name in SWEEP_FILES):
        yield from iterate_runs(place)
    else:
        yield from search_folders(place, levels)


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False if permission is denied."""
    try:
        return path.is_file()
    except OSError:
        return False


def search_folders(place: Path, levels: int) -> Iterator[Path]:
    """Yield the runs at most `levels` below a folder; skips run folders, hidden and system folders."""
    for folder, names, files in os.walk(place):
        if RECORD in files:
            yield Path(folder)
        depth = len(Path(folder).relative_to(place).parts)
        is_end = RECORD in files or depth == levels or folder in SYSTEM_FOLDERS
        names[:] = [] if is_end else [name for name in names if not name.startswith(".")]


def natural_sort_key(path: Path) -> list[tuple[str, int]]:
    """Return a sort key that puts job 10 after job 9."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", str(path))]
