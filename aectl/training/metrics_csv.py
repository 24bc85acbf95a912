"""Read and write metrics.csv, the table of a run's epochs, without importing torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from aectl.config import ConfigError
from aectl.config.untrusted_files import read_text
from aectl.system.atomic_write import write_atomically

METRICS_CSV = "metrics.csv"
LARGEST, MOST_COLUMNS = 2**25, 1000
"""Bounds of the bytes and columns that are read, since the file may come from a stranger."""


def read_metrics_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and rows of a metrics.csv; truncated and damaged rows are left out.

    A row has an epoch, possibly a stage, and numbers. Raises ConfigError if the file is not a table.
    """
    try:
        text = read_text(path, LARGEST, errors="replace").replace("\0", "")
        whole, end, _ = text.rpartition("\n")
        reader = csv.DictReader(io.StringIO(whole + end, newline=""))
        rows = [row for row in reader if None not in row.values() and None not in row]
        columns = list(reader.fieldnames or [])
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if len(columns) > MOST_COLUMNS or len(set(columns)) < len(columns):
        raise ConfigError(f"{path} is damaged: its {len(columns):,} columns are too many, or some have the same name")
    return columns, [row for row in rows if is_epoch(row.get("epoch", "")) and has_numbers(row)]


def is_epoch(text: str) -> bool:
    """Return whether a string is the number of an epoch."""
    return text.isdecimal() and len(text) < 16


def has_numbers(row: Mapping[str, str]) -> bool:
    """Return whether the cells of a row are numbers or empty, except for the stage."""
    for name, text in row.items():
        if text and name != "stage":
            try:
                float(text)
            except ValueError:
                return False
    return True


def write_metrics_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Write the whole table atomically."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    with write_atomically(path) as file:
        file.write(table.getvalue().encode())


def append_metrics_csv(path: Path, columns: Sequence[str], row: Mapping[str, str]) -> None:
    """Append a row whose keys are among `columns`."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns).writerow(row)
