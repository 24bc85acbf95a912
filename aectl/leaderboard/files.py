"""Write leaderboards as CSV in full precision, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aectl.leaderboard.boards import Board, Table
from aectl.leaderboard.show import format_cells, list_notes, make_legend
from aectl.runs.metrics_json import MODEL, is_model_row
from aectl.system.csv_file import write_csv, write_text
from aectl.system.terminal import display_path, escape_unprintable


def write(folder: Path, boards: Sequence[Board]) -> list[Path]:
    """Write leaderboard.csv and leaderboard.md into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, table = folder / "leaderboard.md", folder / "leaderboard.csv"
    write_text(markdown, "\n".join(line for board in boards for line in format_markdown(board)))
    rows = [row for board in boards for row in make_csv_rows(board)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(table, [columns, *([row.get(key, "") for key in columns] for row in rows)])
    return [table, markdown]


def make_csv_rows(board: Board) -> list[dict[str, Any]]:
    """Return a row for each run, and for each baseline with different numbers.

    Columns are named `table.metric`, or `table.row.metric` for further rows of a model. `runs` has the labels of the
    runs that a row belongs to.
    """
    models: list[Any] = []
    others: dict[tuple[str, str], tuple[dict[str, Any], list[str]]] = {}
    about = {"dataset": board.dataset, "split": board.split, "images": board.images}
    for entry in board.entries:
        settings = {key: entry.setting(key) for key in board.varied}
        own = {"folder": display_path(entry.folder), "epoch": entry.section.get("epoch", ""), **settings}
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


def format_markdown(board: Board) -> list[str]:
    """Return a leaderboard as lines of Markdown."""
    headings, rows = make_legend(board)
    folders = [format_code(display_path(entry.folder)) for entry in board.entries]
    lines = [f"## {escape_markdown(board.title)}", ""]
    cells = [[*map(escape_markdown, row), folder] for row, folder in zip(rows, folders, strict=True)]
    lines += format_markdown_table([*map(escape_markdown, headings), "folder"], cells, right=())
    for table in board.tables:
        lines += ["", f"### {escape_markdown(table.title[:1].upper() + table.title[1:])}", ""]
        names = ["", *[escape_markdown(metric.heading) for metric in table.columns]]
        lines += format_markdown_table(names, format_markdown_rows(table), right=range(1, len(names)))
        lines += [line for note in list_notes(table) for line in ("", escape_markdown(note))]
    best = "Bold: the best run, or the best mean over seeds. Italic: baselines."
    spread = "±: half of the 95 % confidence interval; for means over seeds, the standard deviation."
    return [*lines, "", f"{best} {spread}", ""]


def format_markdown_rows(table: Table) -> Iterator[list[str]]:
    """Yield the cells of each line, with the best in bold and names of baselines in italics."""
    texts = format_cells(table)
    for index, line in enumerate(table.lines):
        cells = [f"*{escape_markdown(line.name)}*" if line.kind == "baseline" else escape_markdown(line.name)]
        for metric, column in zip(table.columns, texts, strict=True):
            text = escape_markdown(column[index])
            cells.append(f"**{text}**" if table.is_best(line, metric.name) else text)
        yield cells


def format_markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int]) -> list[str]:
    """Return a Markdown table; the columns with an index in `right` are aligned to the right."""
    right = set(right)
    rule = ["---:" if index in right else "---" for index in range(len(headings))]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


def format_code(text: str) -> str:
    """Return text as Markdown code; bars are escaped, since they end a cell even there."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    room = " " if "`" in text else ""
    return f"{fence}{room}{escape_unprintable(text).replace('|', chr(92) + '|')}{room}{fence}"


def escape_markdown(text: str) -> str:
    """Escape Markdown, HTML and invisible characters."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", escape_unprintable(" ".join(text.split())))
