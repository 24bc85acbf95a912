"""Render report.html, a self-contained page on an evaluated run or a sweep."""

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

from aectl.html_report.facts import (
    format_device,
    format_earlier_date,
    format_git,
    format_images,
    format_subtitle,
    format_time,
    format_versions,
    list_facts,
)
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
from aectl.system.atomic_write import write_atomically

__all__ = ["format_device", "format_git", "format_time", "format_versions", "write_page"]

CAPTIONS = {
    "reconstructions": "Held-out images, the model's input, and its reconstructions.",
    "samples": "Samples drawn from the model.",
    "samples_by_realism": "The samples that the judge finds most and least real, and random ones.",
    "interpolations": "Decoded codes on the path from one code to another.",
    "latent_grid": "A grid of codes, decoded.",
    "field": "Reconstruction minus input at each point of the plane.",
    "energy": "The model's energy of each point of the plane.",
    "filters": "Weights of the first layer, one image per unit.",
    "learning_curves": "Losses and metrics over the epochs, on training images (train) and on validation images (val).",
    "curves": "The objective of each run over its epochs; the best run is the darkest.",
    "code_histogram": "Histogram of the codes.",
    "unit_activity": "Activity of each unit of the code.",
    "code_scatter": "Codes of held-out images, coloured by class.",
    "anomalies_*": "How well the model's scores separate held-out images from {}.",
    "parameters": "The objective against each swept setting.",
    "parallel": "The settings of each run and its objective; the best run is the darkest.",
    "history": "The best value so far after each trial.",
    "importances": "Importance of each setting for the objective, by fANOVA.",
}
"""Captions of figures by file name, in the order of the page: images, learning curves, diagnostics.

Other figures come last, with their names as captions.
"""
WIDE_RATIO = 2.2
"""Ratio of width to height from which a figure fills the width of the page."""
ALWAYS_WIDE = ("learning_curves", "curves")
"""Figures that always fill the width of the page."""

TABLE_WIDTH = 1090
"""Width in pixels of a table on a screen of 1,280 pixels; a wider table is split into parts."""
DIGIT_WIDTH, SPREAD_DIGIT_WIDTH, LETTER_WIDTH, COLUMN_GAP, NAME_GAP = 9.3, 7.5, 10.2, 23, 32
"""Estimated pixels per character in a cell, a spread and a heading, and gaps after columns and names."""
MAX_CELL_LENGTH = 36
"""Characters from which the text of a cell wraps."""


@dataclass(frozen=True)
class Cell:
    """A value with its spread, and whether it is the best of its column."""

    value: str
    spread: str
    is_best: bool

    @property
    def is_long(self) -> bool:
        """Whether the text wraps."""
        return len(self.value) > MAX_CELL_LENGTH


@dataclass(frozen=True)
class Column:
    """A metric, and whether any of its numbers has a spread."""

    metric: Metric
    spreads: bool


@dataclass(frozen=True)
class Part:
    """Columns of a table that fit on a screen; rows are (name, whether the row is the model's, cells)."""

    columns: list[Column]
    rows: list[tuple[str, bool, list[Cell]]]


@dataclass(frozen=True)
class Table:
    """A table with notes on its images and origin, and the meanings of its columns."""

    name: str
    title: str
    notes: list[str]
    parts: list[Part]
    meanings: list[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file that is embedded in the page; `width` and `height` are in pixels."""

    name: str
    data: str
    caption: str
    width: int
    height: int

    @property
    def is_wide(self) -> bool:
        """Whether the picture fills the width of the page."""
        return self.name in ALWAYS_WIDE or self.width > WIDE_RATIO * self.height

    @property
    def sort_key(self) -> tuple[bool, int]:
        """Wide pictures come first, the others in the order of `CAPTIONS`."""
        return not self.is_wide, find_caption_index(self.name)


def write_page(
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

    `name` is the name of the folder, `commands` reproduce the result, `section` is a section of metrics.json, `record`
    is run.json, `facts` are pairs of name and value (by default from `record`), `figures` are PNG files, and `captions`
    replace those of `CAPTIONS` by figure name. Raises OSError if a file cannot be read or written.
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
    shown = list(make_tables(section, str(choices.get("model") or MODEL)))
    rows = [row for table in shown for part in table.parts for row in part.rows]
    page = engine.get_template("report.html.j2").render(
        title=title,
        name=name,
        subtitle=format_subtitle(section),
        status=record.get("status") or "",
        verdicts=list_verdicts(section),
        figures=group_figures(
            read_picture(path, captions.get(path.stem) or find_caption(path.stem)) for path in figures
        ),
        tables=shown,
        of_a_run=any(is_model for _, is_model, _ in rows),
        has_best=any(cell.is_best for _, _, cells in rows for cell in cells),
        has_intervals=has_intervals(section),
        deviations=list_deviations(section),
        pca_legend=pca_legend(tables_of(section)),
        missing=section.get("missing") or {},
        facts=list_facts(record, section) if facts is None else facts,
        commands=list(dict.fromkeys(filter(None, commands))),
        config=config_yaml,
        version=(record.get("versions") or {}).get("aectl", ""),
        today=f"{datetime.now(timezone.utc):%Y-%m-%d}",
    )
    with write_atomically(path, sync=False) as file:
        # Commands and folder names may contain bytes that are not UTF-8.
        file.write(page.encode(errors="backslashreplace"))
    return path


def list_verdicts(section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the verdicts of an evaluation as pairs of outcome (`better`, `worse` or `unclear`) and sentence."""
    found = [one for one in section.get("verdicts") or () if isinstance(one, Mapping) and one.get("text")]
    return [(str(one.get("outcome") or ""), str(one["text"])) for one in found]


def make_tables(section: Mapping[str, Any], model: str) -> Iterator[Table]:
    """Yield the tables of an evaluation, with the model's rows named `model`."""
    titles = section.get("titles") or {}
    for name, rows in tables_of(section).items():
        if rows:
            made = (format_images(section, rows), origin_note(section, name), format_earlier_date(section, name))
            notes = (*made, copies_note(rows))
            found = [note for note in notes if note]
            yield make_table(name, str(titles.get(name, name)), rows, metrics_of_table(section, name), model, found)


def make_glossary(columns: Iterable[Column]) -> list[tuple[str, str]]:
    """Return names and meanings of columns; columns with the same meaning share an entry, `class_0 … class_9`."""
    groups: dict[str, list[str]] = {}
    for one in columns:
        if one.metric.description:
            groups.setdefault(one.metric.description, []).append(one.metric.name)
    return [(m[0] if len(m) == 1 else f"{m[0]} … {m[-1]}", text) for text, m in groups.items()]


def has_intervals(section: Mapping[str, Any]) -> bool:
    """Return whether any number has a confidence interval."""
    return any(key.endswith("_ci95") for rows in tables_of(section).values() for row in rows.values() for key in row)


def list_deviations(section: Mapping[str, Any]) -> list[str]:
    """Return the metrics whose spread is a standard deviation."""
    keys = [key for rows in tables_of(section).values() for row in rows.values() for key in row]
    return list(dict.fromkeys(key.removesuffix("_sd") for key in keys if key.endswith("_sd")))


def make_table(name: str, title: str, rows: Rows, metrics: Sequence[Metric], model: str, notes: list[str]) -> Table:
    """Return a table, split into parts that fit on a screen."""
    shown = [find_metric(metrics, column) for column in column_names(rows.values())]
    cells: dict[str, list[Cell]] = {row: [] for row in rows}
    for metric in shown:
        tops = best_rows(rows, metric.name, metrics)
        for row, (value, spread) in zip(rows, format_column(rows.values(), metric), strict=True):
            cells[row].append(Cell(value, spread, row in tops))
    heads = [Column(one, any(cells[row][index].spread for row in rows)) for index, one in enumerate(shown)]
    names = {row: model + row.removeprefix(MODEL) if is_model_row(row) else row for row in rows}
    widths = [estimate_width(head, [cells[row][index] for row in rows]) for index, head in enumerate(heads)]
    parts = []
    for first, last in split_columns(widths, TABLE_WIDTH - NAME_GAP - DIGIT_WIDTH * max(map(len, names.values()))):
        parts.append(Part(heads[first:last], [(names[row], is_model_row(row), cells[row][first:last]) for row in rows]))
    return Table(name, title[:1].upper() + title[1:], notes, parts, make_glossary(heads))


def estimate_width(head: Column, cells: Iterable[Cell]) -> float:
    """Estimate the width of a column in pixels; headings wrap at underscores, long texts anywhere."""
    parts = head.metric.name.split("_")
    heading = LETTER_WIDTH * (max(map(len, parts)) + 1 + 2 * bool(head.metric.arrow))
    content = [
        DIGIT_WIDTH * min(len(cell.value), MAX_CELL_LENGTH) + SPREAD_DIGIT_WIDTH * (len(cell.spread) + 1)
        for cell in cells
    ]
    return COLUMN_GAP + max([heading, *content])


def split_columns(widths: Sequence[float], room: float) -> list[tuple[int, int]]:
    """Split columns into the fewest parts of similar width that fit into `room` pixels.

    Returns the first column and the end of each part. A column wider than `room` is a separate part.
    """
    count = max(1, math.ceil(sum(widths) / room)) if room > 0 else len(widths)
    share = sum(widths) / count
    parts: list[tuple[int, int]] = []
    first, used, total = 0, 0.0, 0.0
    for index, width in enumerate(widths):
        # A part ends if most of the next column exceeds an equal share of the total width.
        if index > first and (used + width > room or total + width / 2 > share * (len(parts) + 1)):
            parts.append((first, index))
            first, used = index, 0.0
        used, total = used + width, total + width
    return [*parts, (first, len(widths))]


def group_figures(pictures: Iterable[Picture]) -> list[list[Picture]]:
    """Return the pictures in two groups: images and learning curves, then diagnostic charts."""
    found: dict[bool, list[Picture]] = {}
    for one in sorted(pictures, key=lambda one: one.sort_key):
        found.setdefault(find_caption_index(one.name) > find_caption_index("curves"), []).append(one)
    return [found[late] for late in sorted(found)]


def find_caption_index(name: str) -> int:
    """Return the position of a figure in `CAPTIONS`, its length for other figures."""
    return next((i for i, pattern in enumerate(CAPTIONS) if fnmatchcase(name, pattern)), len(CAPTIONS))


def read_picture(path: Path, text: str) -> Picture:
    """Read a PNG file for the page, with the caption `text`."""
    content = path.read_bytes()
    # A PNG begins with 8 bytes of signature, 8 of the first chunk's length and name, then width and height.
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    return Picture(path.stem, base64.b64encode(content).decode(), text, width, height)


def find_caption(name: str) -> str:
    """Return the caption of a figure; the part of its name that matches `*` replaces `{}`."""
    for pattern, text in CAPTIONS.items():
        if fnmatchcase(name, pattern):
            return text.format(name.removeprefix(pattern.rstrip("*")).replace("_", " "))
    words = name.replace("_", " ").strip()
    return f"{words[:1].upper()}{words[1:]}."
