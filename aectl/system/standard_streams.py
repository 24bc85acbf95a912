"""Standard output and error that never end a command: closed, full, absent, or in another encoding."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

STAND_INS = str.maketrans("±×–—−·…↑↓→≤≥≠σλμ’‘“”x̂", "~x---*.^v><>!slm''\"\"x^")
"""One ASCII character for each that our tables use, so that columns stay aligned in any encoding."""

CLOSED_PIPE = 141
"""Exit code where the reader of a pipe, such as `head`, has closed it: 128 + SIGPIPE, as shells have it."""


def replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    r"""Return what to print for characters that an encoding lacks: an ASCII stand-in, `\xff` for a stray byte, or ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(stand_in, error.object[error.start : error.end])), error.end


def stand_in(character: str) -> str:
    """Return ASCII for a character: see `STAND_INS`."""
    if "\udc80" <= character <= "\udcff":
        # A byte of a file name that is not UTF-8, as Python keeps it.
        return f"\\x{ord(character) - 0xDC00:02x}"
    found = character.translate(STAND_INS)
    return found if found.isascii() else "?"


class LenientStream:
    """A text stream that remembers the first error of writing instead of raising it, and then drops what follows."""

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
        """Write nothing any more."""
        self.error = error
        # What the stream still buffers goes to the null device, or Python complains at exit.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def open_missing() -> None:
    """Open the null device in place of standard streams that are closed, or None as under pythonw.

    Otherwise the next file that is opened would get the number of standard output, and prints of C code.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken; those below are open by now. Programs that are started inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115, PTH123


def substitute_unencodable() -> None:
    """Let standard output and error replace what their encoding lacks."""
    codecs.register_error("aectl", replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="aectl")


@contextlib.contextmanager
def lenient_streams(output_is_kept: bool = False) -> Iterator[None]:
    """Let no print of the block raise; at its end, exit with a code other than 0 if standard output was lost.

    That is 141 where a pipe was closed, and 1 with a line on standard error else. `output_is_kept`: what is printed
    stands in a file too, as in a run's train.log, so that nothing is lost. An exit code of the block has precedence.
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
