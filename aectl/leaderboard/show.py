"""Leaderboards on the terminal, tables too wide for it in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aectl.leaderboard.boards import Board, Table
from aectl.measures import arrow, column, is_spread
from aectl.terminal import beside, console, lines_of, shown, significant

if TYPE_CHECKING:
    from rich.table import Table as Printable

NARROW = 100
"""Columns where there is no terminal to fill."""
GAP = 2
MANY = 2
"""Parts of a table up to which its numbers keep their spreads."""
STYLES = {"run": "", "mean": "italic", "baseline": "dim"}
MIXED = "Measured in different ways, which do not compare: each is ranked by itself."


def show(boards: Sequence[Board]) -> None:
    """Print all tables, the best run of each column in bold."""
    out = console()
    width = out.width if out.is_terminal else NARROW
    for board in boards:
        out.print(f"\n{board.title}\n", style="bold")
        for line in beside(*legend(board), [shown(entry.folder) for entry in board.entries], width):
            out.print(line, soft_wrap=True)
        for table in board.tables:
            for title, part in printable(table, width):
                out.print(f"\n{title}", style="bold")
                out.print(part)
            for note in notes(table):
                out.print(note, style="dim", soft_wrap=True)
    if boards:
        out.print("\nBold: the best run, or of means over seeds the best one. ±: half of the 95 % confidence interval;")
        out.print("of a mean over seeds, the standard deviation.")


def notes(table: Table) -> list[str]:
    """Return what is to be said below a table."""
    return [note for note in (MIXED if table.mixed else "", table.verdict, table.baseline) if note]


def legend(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of what the runs are: number, what differs, what they were trained for."""
    headings = ["", *board.varied, "objective", "epoch"]
    rows = []
    for entry in board.entries:
        objective = entry.record.get("objective") or {}
        value = objective.get("value")
        goal = f"{objective.get('name', '')} {'' if value is None else significant(value)}".strip()
        settings = [entry.setting(key) for key in board.varied]
        rows.append([str(entry.number), *settings, goal, str(entry.section.get("epoch", ""))])
    return headings, rows


def printable(table: Table, width: int) -> Iterator[tuple[str, Printable]]:
    """Yield title and printable form of a table, in parts of at most `width` columns; of many, without spreads."""
    texts = columns_of(table)
    if len(parts(table, texts, width)) > MANY:
        texts = columns_of(table, spreads=False)
    for number, part in enumerate(parts(table, texts, width)):
        more = ", continued" if number else ""
        yield table.title + more, one_part(table, {measure: texts[measure] for measure in part})


def columns_of(table: Table, spreads: bool = True) -> dict[str, list[str]]:
    """Return the cells of each measure as text."""
    rows = [line.row if spreads else {k: v for k, v in line.row.items() if not is_spread(k)} for line in table.lines]
    return {measure: [" ".join(pair).strip() for pair in column(rows, measure)] for measure in table.columns}


def parts(table: Table, texts: dict[str, list[str]], width: int) -> list[list[str]]:
    """Return the measures in as many parts as it takes for each to fit `width` columns beside the rows' names."""
    used = left = max(len(line.name) for line in table.lines)
    found: list[list[str]] = [[]]
    for measure, cells in texts.items():
        wide = GAP + max(map(len, [heading(table, measure), *cells]))
        if found[-1] and used + wide > width:
            found.append([])
            used = left
        found[-1].append(measure)
        used += wide
    return found


def one_part(table: Table, texts: dict[str, list[str]]) -> Printable:
    """Return a printable table of some measures."""
    from rich.table import Table as Printable
    from rich.text import Text

    result = Printable(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    result.add_column("", no_wrap=True)
    for measure in texts:
        result.add_column(heading(table, measure), justify="right", no_wrap=True)
    for index, line in enumerate(table.lines):
        cells = [Text(lines_of(texts[m][index]), style="bold" if table.is_best(line, m) else "") for m in texts]
        result.add_row(line.name, *cells, style=STYLES[line.kind])
    return result


def heading(table: Table, measure: str) -> str:
    """Return the name of a measure and which way is better."""
    return f"{measure} {arrow(table.name, measure)}".strip()
