"""Print leaderboards on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from aectl.leaderboard.boards import Board, Table
from aectl.metric import Metric
from aectl.runs.metrics_json import format_column, is_number, is_spread
from aectl.system.terminal import display_path, format_significant, make_console, wrap_text
from aectl.system.terminal_table import Column, format_rows_with_paths, print_table, split_into_blocks

DEFAULT_WIDTH = 100
"""Width in characters if the output is not a terminal."""
MAX_BLOCKS = 2
"""Most blocks of columns that a table with spreads may take; a wider table is printed without them."""
STYLES = {"run": "", "mean": "italic", "baseline": "dim"}
MIXED = "Some runs were measured in different ways and cannot be compared: each group is ranked separately."


def show(boards: Sequence[Board]) -> None:
    """Print all leaderboards, with the best run of each column in bold."""
    out = make_console(DEFAULT_WIDTH)
    for board in boards:
        out.print(f"\n{board.title}\n", style="bold")
        for line in format_rows_with_paths(
            *make_legend(board), [display_path(entry.folder) for entry in board.entries], out.width
        ):
            out.print(line, soft_wrap=True)
        for table in board.tables:
            out.print()
            styles = [STYLES[line.kind] for line in table.lines]
            print_table(out, *make_columns(table, out.width), title=table.title, styles=styles)
            for note in list_notes(table):
                out.print(wrap_text(out, note), style="dim", soft_wrap=True)
    if boards:
        out.print("\nBold: the best run, or the best mean over seeds.")
        out.print("±: half of the 95 % confidence interval; for means over seeds, the standard deviation.")


def list_notes(table: Table) -> list[str]:
    """Return the notes below a table."""
    return [note for note in (MIXED if table.is_mixed else "", table.verdict, table.baseline) if note]


def make_legend(board: Board) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows that list the runs: label, differing settings, objective and epoch."""
    headings = [board.noun, *board.varied, "objective", "epoch"]
    rows = []
    for entry in board.entries:
        objective = entry.record.get("objective") or {}
        value = objective.get("value")
        goal = f"{objective.get('name', '')} {'' if value is None else format_significant(value)}".strip()
        settings = [entry.setting(key) for key in board.varied]
        rows.append([entry.label, *settings, goal, str(entry.section.get("epoch", ""))])
    return headings, rows


def make_columns(table: Table, width: int) -> tuple[Column, list[Column]]:
    """Return the names and columns of a table, without spreads if it is very wide."""
    names = Column("", [line.name for line in table.lines])
    columns = [make_column(table, *column) for column in zip(table.columns, format_cells(table), strict=True)]
    if len(list(split_into_blocks(names, columns, width))) > MAX_BLOCKS:
        short = format_cells(table, spreads=False)
        columns = [make_column(table, *column) for column in zip(table.columns, short, strict=True)]
    return names, columns


def make_column(table: Table, metric: Metric, cells: list[str]) -> Column:
    """Return the column of a metric, with the best runs in bold."""
    bold = [index for index, line in enumerate(table.lines) if table.is_best(line, metric.name)]
    numbers = any(is_number(line.row.get(metric.name)) for line in table.lines)
    return Column(metric.heading, cells, is_text=not numbers, bold=bold)


def format_cells(table: Table, spreads: bool = True) -> list[list[str]]:
    """Return the cells of each column as strings."""
    rows = [line.row if spreads else {k: v for k, v in line.row.items() if not is_spread(k)} for line in table.lines]
    return [[" ".join(pair).strip() for pair in format_column(rows, metric)] for metric in table.columns]
