"""Long lines of prose are wrapped on a terminal, and nowhere else."""

import io
import logging

import pytest

from aectl.system.terminal import WrappingHandler, wrap_prose


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")


PROSE = "aectl: no model called 'x'\n  there are: " + ", ".join(f"model{number}" for number in range(12))


def test_prose_is_wrapped_between_words_on_a_terminal_alone():
    first, second, *others = wrap_prose(PROSE, Terminal()).split("\n")
    assert (first, second[:13]) == ("aectl: no model called 'x'", "  there are: ")
    assert all(line.startswith("      model") for line in others)
    assert max(map(len, (first, second, *others))) <= 40
    assert " ".join(" ".join((first, second, *others)).split()) == " ".join(PROSE.split())
    assert wrap_prose(PROSE, io.StringIO()) == PROSE


@pytest.mark.parametrize(
    "line",
    [
        "  aectl train -m resume=outputs/multirun/a/very/long/path seed=1,2,3",
        "next aectl eval run=outputs/digits/undercomplete/2026-11-27_07-23-01",
        "outputs/digits/undercomplete/2026-11-27_07-23-01-595519/samples/prior.png",
        "outputs/digits/a name of words/2026-11-27_07-23-01-595519/prior.png",
        "epoch  train/loss  val/loss  train/penalty  val/penalty",
    ],
)
def test_commands_paths_and_columns_keep_their_line(line):
    assert wrap_prose(line, Terminal()) == line


@pytest.mark.parametrize(("stream", "lines"), [(Terminal(), 2), (io.StringIO(), 1)])
def test_the_console_handler_wraps_what_is_logged(stream, lines):
    record = logging.LogRecord("aectl", logging.INFO, "", 0, "the learning rate jumps where %s", ("it restarts",), None)
    WrappingHandler(stream).emit(record)
    assert len(stream.getvalue().splitlines()) == lines
