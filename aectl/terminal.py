"""How numbers and tables look on a terminal, or in a file that stands in for one."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a table calculator would compute, or hand on to another program."""


def console() -> Console:
    """Return where tables are printed; a file has no 80 columns to cut them at."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Makes text of texts as they are: nothing in them is markup, an emoji's name or the terminal's to obey."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(lines_of(text), **{**options, "markup": False, "emoji": False})

    terminal = Plain(highlight=False, markup=False, emoji=False)
    return terminal if terminal.is_terminal else Plain(highlight=False, markup=False, emoji=False, width=200)


def significant(value: float, digits: int = 4) -> str:
    """Return a number in `digits` significant digits, without an exponent where it reads well."""
    if value == 0 or not math.isfinite(value) or not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def printable(text: str) -> str:
    r"""Return a text with an escape (`\x1b`, `\n`, `\u202e`) in the place of what a terminal would obey or hide."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def lines_of(text: str) -> str:
    """Return a text of several lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


class Lines(logging.Formatter):
    """Of log records, lines that are printable."""

    def format(self, record: logging.LogRecord) -> str:
        return lines_of(super().format(record))


def harmless(value: Any) -> Any:
    """Return what a table calculator does not take for a formula: `=cmd|…` gets a sign before it, a number does not."""
    if not isinstance(value, str) or value[:1] not in FORMULAS or is_numeral(value):
        return value
    return f"'{value}"


def is_numeral(text: str) -> bool:
    """Return whether a text is a number, such as -0.5."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def brief(message: str, longest: int = 400) -> str:
    """Return a message in at most two lines, printable; a line that is too long lacks its middle.

    The second line is what follows the last line break before an indent, as our hints have it. Other breaks came with
    a value, or with another program's message.
    """
    first, hint, second = message.strip().rpartition("\n  ")
    lines = [(first, longest), (f"  {second.strip()}", 4 * longest)] if hint else [(second, longest)]
    return "\n".join(cut(printable(line), size) for line, size in lines)


def cut(line: str, longest: int) -> str:
    """Return a line without its middle if it is longer than that."""
    tail = longest // 4
    return line if len(line) <= longest else f"{line[: longest - tail - 3]} … {line[-tail:]}"


def beside(headings: Sequence[str], rows: Sequence[Sequence[str]], paths: Sequence[str], width: int) -> list[str]:
    """Return lines of aligned cells with a path behind each, or below it where `width` columns do not hold both.

    Paths are never cut or broken, so that they can be copied.
    """
    rows, paths = [[printable(cell) for cell in row] for row in rows], [*map(printable, paths)]
    sizes = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    facts = ["  ".join(c.ljust(size) for c, size in zip(row, sizes, strict=True)) for row in (headings, *rows)]
    if max((len(fact) + 2 + len(path) for fact, path in zip(facts[1:], paths, strict=True)), default=0) <= width:
        return [f"{fact}  {path}" for fact, path in zip(facts, ("folder", *paths), strict=True)]
    below = [(fact.rstrip(), f"    {path}") for fact, path in zip(facts[1:], paths, strict=True)]
    return [facts[0].rstrip(), *[line for pair in below for line in pair]]


def shown(path: Path) -> str:
    """Return a path as one would type it here: relative if it lies below the working folder."""
    full, here = path.absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else path)
