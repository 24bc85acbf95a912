"""Leaderboards on the terminal, tables too wide for it in parts."""

from __future__ import annotations

from collections.abc import Sequence

from aectl.leaderboard.boards import Board, Table
from aectl.metric import Metric
from aectl.runs.metrics_json import format_column, is_number, is_spread
from aectl.system.terminal import console, fill, shown, significant
from aectl.system.terminal_table import Column, blocks, print_table, rows_with_paths

NARROW = 100
"""Columns where there is no terminal to fill."""
MANY = 2
"""Blocks of a table up to which its numbers keep their spreads."""
STYLES = {"run": "", "mean": "italic", "baseline": "dim"}
MIXED = "Measured in different ways, which do not compare: each is ranked by itself."


def show(boards: Sequence[Board]) -> None:
    """Print all tables, the best run of each column in bold."""
    out = console(NARROW)
    for board in boards:
        out.print(f"\n{board.title}\n", style="bold")
        for line in rows_with_paths(*legend(board), [shown(entry.folder) for entry in board.entries], out.width):
            out.print(line, soft_wrap=True)
        for table in board.tables:
            out.print()
            styles = [STYLES[line.kind] for line in table.lines]
            print_table(out, *split(table, out.width), title=table.title, styles=styles)
            for note in notes(table):
                out.print(fill(out, note), style="dim", soft_wrap=True)
    if boards:
        out.print("\nBold: the best run, or the best mean over seeds.")
        out.print("±: half of the 95 % confidence interval; of a mean over seeds, the standard deviation.")


def notes(table: Table) -> list[str]:
    """Return what is to be said below a table."""
    return [note for note in (MIXED if table.is_mixed else "", table.verdict, table.baseline) if note]


def legend(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of what the runs are: label, what differs, what they were trained for."""
    headings = [board.noun, *board.varied, "objective", "epoch"]
    rows = []
    for entry in board.entries:
        objective = entry.record.get("objective") or {}
        value = objective.get("value")
        goal = f"{objective.get('name', '')} {'' if value is None else significant(value)}".strip()
        settings = [entry.setting(key) for key in board.varied]
        rows.append([entry.label, *settings, goal, str(entry.section.get("epoch", ""))])
    return headings, rows


def split(table: Table, width: int) -> tuple[Column, list[Column]]:
    """Return the names and the columns of a table; the numbers of one that fills many blocks have no spreads."""
    names = Column("", [line.name for line in table.lines])
    columns = [printable_column(table, *column) for column in zip(table.columns, cells_of(table), strict=True)]
    if len(list(blocks(names, columns, width))) > MANY:
        short = cells_of(table, spreads=False)
        columns = [printable_column(table, *column) for column in zip(table.columns, short, strict=True)]
    return names, columns


def printable_column(table: Table, metric: Metric, cells: list[str]) -> Column:
    """Return the column of a metric, the best runs in bold."""
    bold = [index for index, line in enumerate(table.lines) if table.is_best(line, metric.name)]
    numbers = any(is_number(line.row.get(metric.name)) for line in table.lines)
    return Column(metric.heading, cells, is_text=not numbers, bold=bold)


def cells_of(table: Table, spreads: bool = True) -> list[list[str]]:
    """Return the cells of each column as text."""
    rows = [line.row if spreads else {k: v for k, v in line.row.items() if not is_spread(k)} for line in table.lines]
    return [[" ".join(pair).strip() for pair in format_column(rows, metric)] for metric in table.columns]
