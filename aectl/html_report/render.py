"""report.html: one page on an evaluated run, with all that it shows inside it, which opens without a network."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aectl.html_report.facts import device, git, made_earlier, measured_on, run_facts, subtitle, versions, when
from aectl.metric import Metric, find_metric
from aectl.runs.metrics_json import (
    MODEL,
    Rows,
    best_rows,
    column_names,
    copies_note,
    format_column,
    is_model_row,
    metrics_of_table,
    origin_note,
    pca_legend,
    tables_of,
)
from aectl.system.atomic_write import written

__all__ = ["device", "git", "versions", "when", "write"]

CAPTIONS = {
    "reconstructions": "Held-out images, the model's input, and its reconstructions.",
    "samples": "Samples drawn from the model.",
    "interpolations": "What the model decodes on the way from one code to another.",
    "latent_grid": "A grid of codes, decoded.",
    "field": "What the model adds to each point of the plane, reconstruction minus input.",
    "energy": "The model's energy of each point of the plane.",
    "filters": "Weights of the first layer, an image for each unit.",
    "learning_curves": "Losses and metrics over the epochs, on training images (train) and on validation images (val).",
    "curves": "The objective of each run over its epochs; the best run is the darkest.",
    "code_histogram": "How often codes take each value.",
    "unit_activity": "How active each unit of the code is.",
    "code_scatter": "Codes of held-out images, coloured by class.",
    "anomalies_*": "How well the model's scores separate held-out images from {}.",
    "parameters": "The objective against each setting that was swept.",
    "parallel": "The settings of each run and its objective; the best run is the darkest.",
    "history": "The best value so far, from trial to trial.",
    "importances": "How much the objective depends on each setting, by fANOVA.",
}
"""What figures show, by file name, in the order of the page: images first, then learning curves, then diagnostics.

Other figures come last and are captioned with their names.
"""
WIDE = 2.2
"""Width by height from which a figure takes the whole line."""
LARGE = ("learning_curves", "curves")
"""Figures that take the whole line whatever their shape."""

ROOM = 1090
"""Pixels for a table on a screen 1,280 wide; a wider table is split into parts."""
DIGIT, SMALL_DIGIT, LETTER, GAP, EDGE = 9.3, 7.5, 10.2, 23, 32
"""Estimated pixels: of a character in a cell, in a spread and in a heading; between columns; beside the row names."""
LONGEST_CELL = 36
"""Characters from which a text wraps inside its cell."""


@dataclass(frozen=True)
class Cell:
    """A value, its spread, and whether no row has a better one."""

    value: str
    spread: str
    best: bool

    @property
    def is_long(self) -> bool:
        """Whether it wraps."""
        return len(self.value) > LONGEST_CELL


@dataclass(frozen=True)
class Column:
    """A metric, and whether any of its numbers has a spread."""

    metric: Metric
    spreads: bool


@dataclass(frozen=True)
class Part:
    """Some columns of a table, as many as a screen shows; rows are (name, whether it is the model's, cells)."""

    columns: list[Column]
    rows: list[tuple[str, bool, list[Cell]]]


@dataclass(frozen=True)
class Table:
    """One table as the page shows it: what it was measured on, and what its columns mean."""

    name: str
    title: str
    notes: list[str]
    parts: list[Part]
    meanings: list[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file inside the page; `width` and `height` are in pixels."""

    name: str
    data: str
    caption: str
    width: int
    height: int

    @property
    def wide(self) -> bool:
        """Whether it takes the whole line."""
        return self.name in LARGE or self.width > WIDE * self.height

    @property
    def place(self) -> tuple[bool, int]:
        """What pictures are sorted by: wide ones first, else in the order of `CAPTIONS`."""
        return not self.wide, position(self.name)


def write(
    path: Path,
    *,
    title: str,
    name: str = "",
    commands: Sequence[str],
    section: Mapping[str, Any],
    record: Mapping[str, Any] = MappingProxyType({}),
    facts: Sequence[tuple[str, str]] | None = None,
    config_yaml: str = "",
    figures: Sequence[Path] = (),
    captions: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the page on an evaluated run or a sweep; returns its path.

    `name` is the name of its folder, `section` the evaluation's section of metrics.json, `record` the run's run.json,
    `facts` pairs of a name and a text (by default those of the record), `figures` PNG files, `captions` texts that
    replace `CAPTIONS` by the figure's name, `commands` what to type to get the same again. Raises OSError if a file
    cannot be read or written.
    """
    folder = Path(__file__).parent
    engine = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    choices = record.get("choices") or {}
    shown = list(tables(section, str(choices.get("model") or MODEL)))
    rows = [row for table in shown for part in table.parts for row in part.rows]
    page = engine.get_template("report.html.j2").render(
        title=title,
        name=name,
        subtitle=subtitle(section),
        status=record.get("status") or "",
        verdicts=verdicts(section),
        figures=groups(picture(path, captions.get(path.stem) or caption(path.stem)) for path in figures),
        tables=shown,
        of_a_run=any(is_model for _, is_model, _ in rows),
        has_best=any(cell.best for _, _, cells in rows for cell in cells),
        has_intervals=has_intervals(section),
        deviations=deviations(section),
        pca_legend=pca_legend(tables_of(section)),
        missing=section.get("missing") or {},
        facts=run_facts(record, section) if facts is None else facts,
        commands=list(dict.fromkeys(filter(None, commands))),
        config=config_yaml,
        version=(record.get("versions") or {}).get("aectl", ""),
        today=f"{datetime.now(timezone.utc):%Y-%m-%d}",
    )
    with written(path, sync=False) as file:
        # What was typed or found in a folder's name need not be UTF-8.
        file.write(page.encode(errors="backslashreplace"))
    return path


def verdicts(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the verdicts of an evaluation as pairs: `better`, `worse` or `unclear`, and the sentence."""
    found = [one for one in section.get("verdicts") or () if isinstance(one, Mapping) and one.get("text")]
    return [(str(one.get("outcome") or ""), str(one["text"])) for one in found]


def tables(section: Mapping[str, Any], model: str) -> Iterator[Table]:
    """Yield the tables of an evaluation; the model's rows are called `model`."""
    titles = section.get("titles") or {}
    for name, rows in tables_of(section).items():
        if rows:
            made = (measured_on(section, rows), origin_note(section, name), made_earlier(section, name))
            notes = (*made, copies_note(rows))
            found = [note for note in notes if note]
            yield table(name, str(titles.get(name, name)), rows, metrics_of_table(section, name), model, found)


def glossary(columns: Iterable[Column]) -> list[tuple[str, str]]:
    """Return the columns' names and meanings; columns of the same meaning are one entry: `class_0 … class_9`."""
    groups: dict[str, list[str]] = {}
    for one in columns:
        if one.metric.description:
            groups.setdefault(one.metric.description, []).append(one.metric.name)
    return [(m[0] if len(m) == 1 else f"{m[0]} … {m[-1]}", text) for text, m in groups.items()]


def has_intervals(section: Mapping[str, Any]) -> bool:
    """Return whether any number has a confidence interval."""
    return any(key.endswith("_ci95") for rows in tables_of(section).values() for row in rows.values() for key in row)


def deviations(section: Mapping[str, Any]) -> list[str]:
    """Return the metrics whose spread is a standard deviation."""
    keys = [key for rows in tables_of(section).values() for row in rows.values() for key in row]
    return list(dict.fromkeys(key.removesuffix("_sd") for key in keys if key.endswith("_sd")))


def table(name: str, title: str, rows: Rows, metrics: Sequence[Metric], model: str, notes: list[str]) -> Table:
    """Return one table as the page shows it."""
    shown = [find_metric(metrics, column) for column in column_names(rows.values())]
    cells: dict[str, list[Cell]] = {row: [] for row in rows}
    for metric in shown:
        tops = best_rows(rows, metric.name, metrics)
        for row, (value, spread) in zip(rows, format_column(rows.values(), metric), strict=True):
            cells[row].append(Cell(value, spread, row in tops))
    heads = [Column(one, any(cells[row][index].spread for row in rows)) for index, one in enumerate(shown)]
    names = {row: model + row.removeprefix(MODEL) if is_model_row(row) else row for row in rows}
    widths = [column_width(head, [cells[row][index] for row in rows]) for index, head in enumerate(heads)]
    parts = []
    for first, last in split(widths, ROOM - EDGE - DIGIT * max(map(len, names.values()))):
        parts.append(Part(heads[first:last], [(names[row], is_model_row(row), cells[row][first:last]) for row in rows]))
    return Table(name, title[:1].upper() + title[1:], notes, parts, glossary(heads))


def column_width(head: Column, cells: Iterable[Cell]) -> float:
    """Return about how many pixels a column takes; a heading may break at its underscores, a long text anywhere."""
    parts = head.metric.name.split("_")
    heading = LETTER * (max(map(len, parts)) + 1 + 2 * bool(head.metric.arrow))
    content = [DIGIT * min(len(cell.value), LONGEST_CELL) + SMALL_DIGIT * (len(cell.spread) + 1) for cell in cells]
    return GAP + max([heading, *content])


def split(widths: Sequence[float], room: float) -> list[tuple[int, int]]:
    """Return the columns in as few parts as fit the room, all of about the same width, as pairs of first and last + 1.

    A column that is wider than the room is a part of its own.
    """
    count = max(1, math.ceil(sum(widths) / room)) if room > 0 else len(widths)
    share = sum(widths) / count
    parts: list[tuple[int, int]] = []
    first, used, total = 0, 0.0, 0.0
    for index, width in enumerate(widths):
        # Balanced: a part ends where most of the next column lies beyond its share.
        if index > first and (used + width > room or total + width / 2 > share * (len(parts) + 1)):
            parts.append((first, index))
            first, used = index, 0.0
        used, total = used + width, total + width
    return [*parts, (first, len(widths))]


def groups(pictures: Iterable[Picture]) -> list[list[Picture]]:
    """Return the pictures in two groups, images up to the learning curves and charts after them."""
    found: dict[bool, list[Picture]] = {}
    for one in sorted(pictures, key=lambda one: one.place):
        found.setdefault(position(one.name) > position("curves"), []).append(one)
    return [found[late] for late in sorted(found)]


def position(name: str) -> int:
    """Return where a figure stands in the order of `CAPTIONS`."""
    return next((i for i, pattern in enumerate(CAPTIONS) if fnmatchcase(name, pattern)), len(CAPTIONS))


def picture(path: Path, text: str) -> Picture:
    """Return a PNG file with its caption for the page."""
    content = path.read_bytes()
    # The header of a PNG: 8 bytes of signature, 8 of the first chunk's length and name, then the two sizes.
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    return Picture(path.stem, base64.b64encode(content).decode(), text, width, height)


def caption(name: str) -> str:
    """Return what a figure shows, by the name of its file; `{}` stands for what its pattern leaves open."""
    for pattern, text in CAPTIONS.items():
        if fnmatchcase(name, pattern):
            return text.format(name.removeprefix(pattern.rstrip("*")).replace("_", " "))
    words = name.replace("_", " ").strip()
    return f"{words[:1].upper()}{words[1:]}."
