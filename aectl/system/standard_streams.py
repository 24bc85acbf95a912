"""Keep commands running when standard output or error is closed, full, missing or in another encoding."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

STAND_INS = str.maketrans("±×–—−·…↑↓→≤≥≠σλμ’‘“”x̂", "~x---*.^v><>!slm''\"\"x^")
"""One ASCII character for each special character in tables, so that columns stay aligned."""

CLOSED_PIPE = 141
"""Exit code if the reader of a pipe, such as `head`, has closed it: 128 + SIGPIPE, as in shells."""


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    r"""Replace characters that an encoding lacks by an ASCII stand-in, `\xff` for a stray byte, or ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(stand_in, error.object[error.start : error.end])), error.end


def stand_in(character: str) -> str:
    """Return an ASCII character for another one, see `STAND_INS`."""
    if "\udc80" <= character <= "\udcff":
        # Python stores a byte of a file name that is not UTF-8 as a surrogate.
        return f"\\x{ord(character) - 0xDC00:02x}"
    found = character.translate(STAND_INS)
    return found if found.isascii() else "?"


class LenientStream:
    """Text stream that stores the first write error instead of raising it, and drops all later text."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        if self.error is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self.give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Store the error and stop writing."""
        self.error = error
        # Send buffered text to the null device; otherwise Python prints an error at exit.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def open_missing() -> None:
    """Open the null device for standard streams that are closed, or None as under pythonw.

    Otherwise the next opened file would get the file descriptor of standard output, and output of C code.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # `open` returns the lowest free descriptor, which is `number`. Child processes inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115, PTH123


def substitute_unencodable() -> None:
    """Make standard output and error replace characters that their encoding lacks."""
    codecs.register_error("aectl", replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="aectl")


@contextlib.contextmanager
def lenient_streams(output_is_kept: bool = False) -> Iterator[None]:
    """Suppress write errors of standard streams in the block; then exit with an error code if output was lost.

    The code is 141 for a closed pipe, otherwise 1 with a line on standard error. With `output_is_kept` the output is
    also in a file, such as a run's train.log, and the code stays 0. An exit code of the block takes precedence.
    """
    open_missing()
    substitute_unencodable()
    before = sys.stdout, sys.stderr
    out, err = LenientStream(sys.stdout), LenientStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
    if out.error is None or output_is_kept:
        return
    if out.error.errno == errno.EPIPE:
        raise SystemExit(CLOSED_PIPE)
    err.write(f"aectl: cannot write to standard output: {out.error.strerror}\n")
    raise SystemExit(1)
