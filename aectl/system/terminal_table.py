"""Print tables: wide ones are split into blocks of columns, and names and numbers are never cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aectl.system.terminal import escape_lines, escape_unprintable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

GAP = 2
"""Spaces between columns."""
MIN_WIDTH = 8
"""Smallest width of a column in characters."""
WRAP_FROM = 24
"""Width from which a column of texts may be wrapped."""


@dataclass(frozen=True)
class Column:
    """A column of a table: texts are left-aligned and may be wrapped, numbers right-aligned and never wrapped."""

    heading: str
    cells: Sequence[str]
    is_text: bool = False
    bold: Collection[int] = ()
    """The rows whose cells are bold."""

    @property
    def width(self) -> int:
        """Width of the widest line."""
        return max(map(cell_width, (self.heading, *self.cells)))

    @property
    def least(self) -> int:
        """Smallest width without breaking numbers; headings and long texts may be wrapped."""
        widest = max(map(cell_width, self.cells), default=1)
        return max(min(widest, WRAP_FROM) if self.is_text else widest, 1)


def cell_width(text: str) -> int:
    """Return the width on the terminal of a text's widest line."""
    from rich.cells import cell_len

    return max(map(cell_len, escape_lines(text).split("\n")))


def print_table(
    out: Console, names: Column, columns: Sequence[Column], title: str = "", styles: Sequence[str] = ()
) -> None:
    """Print a table with the row names `names`, in blocks that fit; each block repeats the names.

    `styles` has a rich style for each row.
    """
    left = choose_names_width(names, columns, out.width)
    for number, block in enumerate(split_into_blocks(names, columns, out.width)):
        if title:
            out.print(f"{title}, continued" if number else title, style="italic")
        out.print(build_block(names, block, left, out.width, styles))


def split_into_blocks(names: Column, columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Yield the columns in blocks that fit next to the names; at least one block, which may be empty."""
    left = choose_names_width(names, columns, width)
    block: list[Column] = []
    used = left
    for column in columns:
        size = GAP + min(column.width, max_column_width(left, width, column))
        if block and used + size > width:
            yield block
            block, used = [], left
        block.append(column)
        used += size
    yield block


def choose_names_width(names: Column, columns: Sequence[Column], width: int) -> int:
    """Return the width of the names: all they need, or less if the columns would get under half of `width`."""
    if names.width + sum(GAP + column.width for column in columns) <= width:
        return names.width
    largest = width - GAP - max((column.least for column in columns), default=0)
    return max(min(names.width, width // 2, largest), min(names.width, MIN_WIDTH))


def max_column_width(left: int, width: int, column: Column) -> int:
    """Return the largest width of a column next to names of width `left`."""
    return max(width - left - GAP, MIN_WIDTH if column.is_text else column.least)


def build_block(names: Column, columns: Sequence[Column], left: int, width: int, styles: Sequence[str]) -> Table:
    """Return one block as a rich table, with names of width `left`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    table.add_column(escape_lines(names.heading), width=left, overflow="fold")
    for column in columns:
        size = min(column.width, max_column_width(left, width, column))
        side = "left" if column.is_text else "right"
        table.add_column(escape_lines(column.heading), width=size, justify=side, overflow="fold")  # type: ignore[arg-type]
    for index, name in enumerate(names.cells):
        cells = [Text(escape_lines(c.cells[index]), style="bold" if index in c.bold else "") for c in columns]
        name_style = "bold" if index in names.bold else ""
        table.add_row(Text(escape_lines(name), style=name_style), *cells, style=styles[index] if styles else None)
    return table


def format_rows_with_paths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], paths: Sequence[str], width: int
) -> list[str]:
    """Return lines of aligned cells, each row followed by its path, in one line if they fit in `width`.

    Wide rows take several lines. Paths are never broken, so that they can be copied.
    """
    rows = [[escape_unprintable(cell) for cell in row] for row in rows]
    paths = [escape_unprintable(path) for path in paths]
    sizes = [max(map(cell_width, column)) for column in zip(headings, *rows, strict=True)]
    lines = [pad_row(row, sizes) for row in (headings, *rows)]
    if max((cell_width(f"{line}  {path}") for line, path in zip(lines[1:], paths, strict=True)), default=0) <= width:
        return [f"{line}  {path}" for line, path in zip(lines, ("folder", *paths), strict=True)]
    parts = group_columns(sizes, width)
    found = []
    for row, path in zip((headings, *rows), ("", *paths), strict=True):
        texts = [pad_row(row[part], sizes[part]).rstrip() for part in parts]
        found += [f"{'  ' if number else ''}{text}" for number, text in enumerate(texts)]
        found += [f"    {path}"] if path else []
    return found


def pad_row(row: Sequence[str], sizes: Sequence[int]) -> str:
    """Return the cells of a row in one line, padded to the widths of their columns."""
    return "  ".join(cell + " " * (size - cell_width(cell)) for cell, size in zip(row, sizes, strict=True))


def group_columns(sizes: Sequence[int], width: int) -> list[slice]:
    """Split the columns into groups that fit in a line; lines after the first are indented."""
    starts, used = [0], 0
    for index, size in enumerate(sizes):
        if index > starts[-1] and used + size > width - (GAP if starts[-1] else 0):
            starts.append(index)
            used = 0
        used += size + GAP
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(sizes)], strict=True)]
