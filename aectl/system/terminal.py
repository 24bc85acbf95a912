"""How numbers and tables look on a terminal, or in a file that stands in for one."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    StreamHandler = logging.StreamHandler[TextIO]
else:
    StreamHandler = logging.StreamHandler

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a table calculator would compute, or hand on to another program."""

FILE_WIDTH = 200
"""Columns of a file that a table is printed to."""


def make_console(file_width: int = FILE_WIDTH) -> Console:
    """Return where tables are printed; a file is `file_width` columns wide unless $COLUMNS is set."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Makes text of texts as they are: nothing in them is markup, an emoji's name or the terminal's to obey."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(escape_lines(text), **{**options, "markup": False, "emoji": False})

    terminal = Plain(highlight=False, markup=False, emoji=False)
    if terminal.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return terminal
    return Plain(highlight=False, markup=False, emoji=False, width=file_width)


def wrap_text(out: Console, text: str) -> str:
    """Return prose in lines that fit the console, all but the first indented; words stay whole."""
    width = max(out.width, 20)
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def format_significant(value: float, digits: int = 4) -> str:
    """Return a number in `digits` significant digits, without an exponent where it reads well."""
    if value == 0 or not math.isfinite(value) or not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def format_duration(seconds: float) -> str:
    """Return a time as 12 s, 3 min or 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural: `1 job`, `2 jobs`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def escape_unprintable(text: str) -> str:
    r"""Return a text with an escape (`\x1b`, `\n`, `\u202e`) in the place of what a terminal would obey or hide."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def escape_lines(text: str) -> str:
    """Return a text of several lines, each of them printable."""
    return "\n".join(map(escape_unprintable, text.split("\n")))


class EscapingFormatter(logging.Formatter):
    """Of log records, lines that are printable."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_lines(super().format(record))


class WrappingHandler(StreamHandler):
    """A handler of log records that wraps prose where its stream is a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return wrap_prose(super().format(record), self.stream)


def wrap_prose(text: str, stream: TextIO) -> str:
    """Return a text with its long lines of prose wrapped at the width of a terminal; unchanged for files and pipes.

    What is to be copied or aligned keeps its line: commands, columns, and words such as paths. Lines that continue one
    are indented by four more characters than it is.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        wrap_line(line, width) if len(line) > width and is_prose(line) else line for line in text.split("\n")
    )


def wrap_line(line: str, width: int) -> str:
    """Return a line wrapped between words."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(),
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def is_prose(line: str) -> bool:
    """Return whether a line has neither a command to copy nor columns, and begins with no path."""
    return not re.search(r"^ *\S*/|\baectl (train|eval|sample)\b|tensorboard --|\S {2,}", line)


def escape_formula(value: Any) -> Any:
    """Return what a table calculator does not take for a formula: `=cmd|…` gets a sign before it, a number does not."""
    if not isinstance(value, str) or value[:1] not in FORMULA_STARTS or is_numeral(value):
        return value
    return f"'{value}"


def is_numeral(text: str) -> bool:
    """Return whether a text is a number, such as -0.5."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def shorten_message(message: str, longest: int = 400) -> str:
    """Return a message in at most two lines, printable; a line that is too long lacks its middle.

    The second line is what follows the last line break before an indent, as our hints have it. Other breaks came with
    a value, or with another program's message.
    """
    first, hint, second = message.strip().rpartition("\n  ")
    lines = [(first, longest), (f"  {second.strip()}", 4 * longest)] if hint else [(second, longest)]
    return "\n".join(shorten_line(escape_unprintable(line), size) for line, size in lines)


def first_line_of(error: BaseException) -> str:
    """Return the first line of what an error says, printable and not too long."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return shorten_line(escape_unprintable(lines[0]), 200)


def shorten_line(line: str, longest: int) -> str:
    """Return a line without its middle if it is longer than that."""
    tail = longest // 4
    return line if len(line) <= longest else f"{line[: longest - tail - 3]} … {line[-tail:]}"


def display_path(path: Path) -> str:
    """Return a path as one would type it here: relative if it lies below the working folder."""
    full, here = path.absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else path)
