"""Leaderboards as files: CSV in full precision, and Markdown to paste into a README."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aectl.leaderboard.boards import Board, Table
from aectl.leaderboard.show import cells_of, legend, notes
from aectl.runs.metrics_json import MODEL, is_model_row
from aectl.system.terminal import harmless, printable, shown


def write(folder: Path, boards: Sequence[Board]) -> list[Path]:
    """Write leaderboard.csv and leaderboard.md into a folder; returns their paths. Raises OSError if it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, table = folder / "leaderboard.md", folder / "leaderboard.csv"
    put(markdown, "\n".join(line for board in boards for line in markdown_of(board)))
    rows = [
        {harmless(key): harmless(value) for key, value in row.items()} for board in boards for row in csv_rows(board)
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), restval="")
    writer.writeheader()
    writer.writerows(rows)
    put(table, text.getvalue())
    return [table, markdown]


def put(path: Path, text: str) -> None:
    """Write a file aside and rename it: what is a link is replaced, and not what it leads to."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    with aside.open("x", newline="", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    aside.replace(path)


def csv_rows(board: Board) -> list[dict[str, Any]]:
    """Return one row for each run, and one for each baseline, or for each that goes by its name.

    Columns of numbers are called table.measure, those of the model's other rows table.row.measure; `runs` are the
    labels of the runs that a row belongs to.
    """
    models: list[Any] = []
    others: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = {}
    about = {"dataset": board.dataset, "split": board.split, "images": board.images}
    for entry in board.entries:
        settings = {key: entry.setting(key) for key in board.varied}
        own = {"folder": shown(entry.folder), "epoch": entry.section.get("epoch", ""), **settings}
        model = {"row": MODEL, "runs": entry.label, **about, **own}
        rows: dict[str, dict[str, Any]] = {}
        for table, content in entry.rows.items():
            for name, row in content.items():
                extra = f"{name.removeprefix(f'{MODEL}, ')}." if is_model_row(name) and name != MODEL else ""
                into = model if is_model_row(name) else rows.setdefault(name, {})
                into.update({f"{table}.{extra}{column}": value for column, value in row.items()})
        models.append(model)
        for name, numbers in rows.items():
            others.setdefault((name, repr(numbers)), (numbers, []))[1].append(entry.label)
    named = [({"row": name, "runs": " ".join(runs), **about}, row) for (name, _), (row, runs) in others.items()]
    return models + [{**head, **row} for head, row in named]


def markdown_of(board: Board) -> list[str]:
    """Return a board as lines of Markdown."""
    headings, rows = legend(board)
    folders = [code(shown(entry.folder)) for entry in board.entries]
    lines = [f"## {escaped(board.title)}", ""]
    cells = [[*map(escaped, row), folder] for row, folder in zip(rows, folders, strict=True)]
    lines += grid([*map(escaped, headings), "folder"], cells, right=())
    for table in board.tables:
        lines += ["", f"### {escaped(table.title[:1].upper() + table.title[1:])}", ""]
        names = ["", *[escaped(metric.heading) for metric in table.columns]]
        lines += grid(names, markdown_rows(table), right=range(1, len(names)))
        lines += [line for note in notes(table) for line in ("", escaped(note))]
    best = "Bold: the best run, or of means over seeds the best one. Italic: baselines."
    spread = "±: half of the 95 % confidence interval; of a mean over seeds, the standard deviation."
    return [*lines, "", f"{best} {spread}", ""]


def markdown_rows(table: Table) -> Iterator[list[str]]:
    """Yield the cells of each line, the best in bold and a baseline's name in italics."""
    texts = cells_of(table)
    for index, line in enumerate(table.lines):
        cells = [f"*{escaped(line.name)}*" if line.kind == "baseline" else escaped(line.name)]
        for metric, column in zip(table.columns, texts, strict=True):
            text = escaped(column[index])
            cells.append(f"**{text}**" if table.is_best(line, metric.name) else text)
        yield cells


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int]) -> list[str]:
    """Return a table of Markdown; the columns numbered in `right` are set to the right."""
    right = set(right)
    rule = ["---:" if index in right else "---" for index in range(len(headings))]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


def code(text: str) -> str:
    """Return text as code, between more backticks than it has in a row; bars end a cell even there."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    room = " " if "`" in text else ""
    return f"{fence}{room}{printable(text).replace('|', chr(92) + '|')}{room}{fence}"


def escaped(text: str) -> str:
    """Return text in which nothing is Markdown or HTML, and no character that a reader would not see."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", printable(" ".join(text.split())))
