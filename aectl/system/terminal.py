"""Format numbers, messages and paths for the terminal."""

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
"""First characters of a cell that a spreadsheet would run as a formula."""

FILE_WIDTH = 200
"""Width in characters of tables printed to a file."""


def make_console(file_width: int = FILE_WIDTH) -> Console:
    """Return the console for tables; output to a file has `file_width` columns unless $COLUMNS is set."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Console that prints text literally: no markup, no emoji names, no control characters."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(escape_lines(text), **{**options, "markup": False, "emoji": False})

    terminal = Plain(highlight=False, markup=False, emoji=False)
    if terminal.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return terminal
    return Plain(highlight=False, markup=False, emoji=False, width=file_width)


def wrap_text(out: Console, text: str) -> str:
    """Wrap prose at the console's width between words; lines after the first are indented."""
    width = max(out.width, 20)
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def format_significant(value: float, digits: int = 4) -> str:
    """Format a number with `digits` significant digits; exponents only for very small and large numbers."""
    if value == 0 or not math.isfinite(value) or not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def format_duration(seconds: float) -> str:
    """Format a time, e.g. `12 s`, `3 min` or `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_count(number: int, noun: str) -> str:
    """Format a number with its noun, e.g. `1 job`, `2 jobs`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def escape_unprintable(text: str) -> str:
    r"""Replace control and invisible characters by escapes such as `\x1b`, `\n` and `\u202e`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def escape_lines(text: str) -> str:
    """Escape unprintable characters in each line of a text."""
    return "\n".join(map(escape_unprintable, text.split("\n")))


class EscapingFormatter(logging.Formatter):
    """Formatter of log records that escapes unprintable characters."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_lines(super().format(record))


class WrappingHandler(StreamHandler):
    """Log handler that wraps prose if its stream is a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return wrap_prose(super().format(record), self.stream)


def wrap_prose(text: str, stream: TextIO) -> str:
    """Wrap long lines of prose at the width of a terminal; unchanged for files and pipes.

    Commands, columns and paths are not broken. Continuation lines are indented by four more characters.
    """
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        wrap_line(line, width) if len(line) > width and is_prose(line) else line for line in text.split("\n")
    )


def wrap_line(line: str, width: int) -> str:
    """Wrap a line between words."""
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
    """Return whether a line has no command and no columns and does not start with a path."""
    return not re.search(r"^ *\S*/|\baectl (train|eval|sample)\b|tensorboard --|\S {2,}", line)


def escape_formula(value: Any) -> Any:
    """Prefix a text such as `=cmd|…` with an apostrophe, so that a spreadsheet does not run it as a formula."""
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
    """Return a message in at most two printable lines; the middle of long lines is cut.

    The second line is the hint after the last line break with an indent. Other line breaks, from values or messages of
    other programs, are escaped.
    """
    first, hint, second = message.strip().rpartition("\n  ")
    lines = [(first, longest), (f"  {second.strip()}", 4 * longest)] if hint else [(second, longest)]
    return "\n".join(shorten_line(escape_unprintable(line), size) for line, size in lines)


def first_line_of(error: BaseException) -> str:
    """Return the first line of an error's message, printable and shortened."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return shorten_line(escape_unprintable(lines[0]), 200)


def shorten_line(line: str, longest: int) -> str:
    """Cut the middle of a line that is longer than `longest`."""
    tail = longest // 4
    return line if len(line) <= longest else f"{line[: longest - tail - 3]} … {line[-tail:]}"


def display_path(path: Path) -> str:
    """Return a path as text, relative if it is inside the working folder."""
    full, here = path.absolute(), Path.cwd()
    return str(full.relative_to(here) if full.is_relative_to(here) else path)
