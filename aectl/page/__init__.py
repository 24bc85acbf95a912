"""report.html: one page on an evaluated run, with all that it shows inside it, which opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aectl.durable import written
from aectl.measures import MODEL, Rows, arrow, best, column, columns, is_models, meaning, tables_of
from aectl.page.facts import facts, subtitle

CAPTIONS = {
    "reconstructions": "Held-out images, as the model saw them, and what it made of them.",
    "samples": "Images drawn from the model.",
    "interpolations": "Images decoded on the way from one code to another.",
    "filters": "Weights of the first layer, an image for each unit.",
    "latent_grid": "Images decoded over a grid of codes.",
    "code_histogram": "How often codes take each value.",
    "unit_activity": "How often each unit of the code is active.",
    "code_scatter": "Codes of held-out images, coloured by class.",
    "curves": "The objective of each run over its epochs; the best run is the darkest.",
    "parameters": "The objective against each setting that was swept.",
    "parallel": "Each run's way through its settings to its objective; the best run is the darkest.",
    "history": "How the best value fell from trial to trial.",
    "importances": "Which settings the objective hangs on, by fANOVA.",
    "learning_curves": "Losses and metrics over the epochs of training.",
    "anomalies_*": "How well the model's scores tell held-out images from {}.",
}
"""What figures show, by the names of their files; others are captioned with their names."""
WIDE = 2.2
"""Width by height from which a figure takes the whole line."""


@dataclass(frozen=True)
class Cell:
    """A number, its spread, and whether no row's is better."""

    value: str
    spread: str
    best: bool


@dataclass(frozen=True)
class Column:
    """A measure: ↓ or ↑ for the better way, one line on it, and whether any of its numbers has a spread."""

    measure: str
    arrow: str
    meaning: str
    spreads: bool


@dataclass(frozen=True)
class Table:
    """One table as the page shows it; rows are (name, whether it is the model's, cells)."""

    name: str
    title: str
    columns: list[Column]
    rows: list[tuple[str, bool, list[Cell]]]


@dataclass(frozen=True)
class Picture:
    """A PNG file inside the page; `width` and `height` are in pixels."""

    data: str
    caption: str
    width: int
    height: int

    @property
    def wide(self) -> bool:
        """Whether it takes the whole line."""
        return self.width > WIDE * self.height


def write(
    path: Path,
    *,
    title: str,
    command: str,
    config_yaml: str,
    record: Mapping[str, Any],
    section: Mapping[str, Any],
    figures: Sequence[Path] = (),
) -> Path:
    """Write the page on an evaluation; returns its path.

    `command` repeats the evaluation; `record` is the run's run.json, `section` what metrics.json holds of the
    evaluation, `figures` are PNG files. Raises OSError if a file cannot be read or written.
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
    page = engine.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle(section),
        status=record.get("status") or "",
        facts=facts(record, section),
        commands=list(dict.fromkeys(filter(None, (record.get("command"), command)))),
        tables=shown,
        of_a_run=any(is_model for table in shown for _, is_model, _ in table.rows),
        meanings=glossary(shown),
        deviations=deviations(section),
        missing=section.get("missing") or {},
        # Wide ones first: between the others they would break the two columns.
        figures=sorted(map(picture, figures), key=lambda one: not one.wide),
        config=config_yaml,
        version=(record.get("versions") or {}).get("aectl", ""),
        today=f"{datetime.now(timezone.utc):%Y-%m-%d}",
    )
    with written(path, sync=False) as file:
        file.write(page.encode())
    return path


def tables(section: Mapping[str, Any], model: str) -> Iterator[Table]:
    """Yield the tables of an evaluation; the model's rows are called `model`."""
    titles = section.get("titles") or {}
    for name, rows in tables_of(section).items():
        if rows:
            yield table(name, str(titles.get(name, name)), rows, model)


def glossary(shown: Sequence[Table]) -> list[tuple[str, str]]:
    """Return what the columns mean, those that mean the same together: `class_0 … class_9`."""
    groups: dict[str, list[str]] = {}
    for one in (one for table in shown for one in table.columns if one.meaning):
        measures = groups.setdefault(one.meaning, [])
        measures += [] if one.measure in measures else [one.measure]
    return [(m[0] if len(m) == 1 else f"{m[0]} … {m[-1]}", text) for text, m in groups.items()]


def deviations(section: Mapping[str, Any]) -> list[str]:
    """Return the measures whose spread is a standard deviation."""
    keys = [key for rows in tables_of(section).values() for row in rows.values() for key in row]
    return list(dict.fromkeys(key.removesuffix("_sd") for key in keys if key.endswith("_sd")))


def table(name: str, title: str, rows: Rows, model: str) -> Table:
    """Return one table as the page shows it."""
    measures = columns(rows.values())
    cells: dict[str, list[Cell]] = {row: [] for row in rows}
    for measure in measures:
        tops = best(name, rows, measure)
        for row, (value, spread) in zip(rows, column(rows.values(), measure), strict=True):
            cells[row].append(Cell(value, spread, row in tops))
    heads = [
        Column(m, arrow(name, m), meaning(name, m), any(cells[row][index].spread for row in rows))
        for index, m in enumerate(measures)
    ]
    names = {row: model + row.removeprefix(MODEL) if is_models(row) else row for row in rows}
    return Table(
        name,
        title[:1].upper() + title[1:],
        heads,
        [(names[row], is_models(row), cells[row]) for row in rows],
    )


def picture(path: Path) -> Picture:
    """Return a PNG file for the page."""
    content = path.read_bytes()
    # The header of a PNG: 8 bytes of signature, 8 of the first chunk's length and name, then the two sizes.
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    return Picture(base64.b64encode(content).decode(), caption(path.stem), width, height)


def caption(name: str) -> str:
    """Return what a figure shows, by the name of its file; `{}` stands for what its pattern leaves open."""
    for pattern, text in CAPTIONS.items():
        if fnmatchcase(name, pattern):
            return text.format(name.removeprefix(pattern.rstrip("*")).replace("_", " "))
    words = name.replace("_", " ").strip()
    return f"{words[:1].upper()}{words[1:]}."
