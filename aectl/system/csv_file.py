"""Write tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aectl.system.atomic_write import write_atomically
from aectl.system.terminal import escape_formula


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows in full precision; cells that a spreadsheet would compute are escaped."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([escape_formula(value) for value in row] for row in rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text atomically: a link at `path` is replaced, and not its target."""
    with write_atomically(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
