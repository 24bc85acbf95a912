"""What a run shows while it trains."""

import io
import logging
import sys
import types

import pytest

from aectl.training.observers import Console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def root():
    """The root logger with a handler on a terminal and one on a file; gives their streams."""
    streams = Terminal(), io.StringIO()
    handlers = [logging.StreamHandler(stream) for stream in streams]
    logger = logging.getLogger()
    for handler in handlers:
        logger.addHandler(handler)
    yield streams
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_warning_takes_the_place_of_the_progress_bar(root, monkeypatch):
    terminal, file = root
    trainer = types.SimpleNamespace(epoch=0, step=0, epochs=2, steps_per_epoch=5)
    monkeypatch.setattr(sys, "stderr", Terminal())
    console = Console()
    console.started(trainer)
    logging.getLogger("aectl").warning("steps are slow")
    console.finished(trainer)
    logging.getLogger("aectl").warning("later")
    assert terminal.getvalue() == "\r\x1b[2Ksteps are slow\nlater\n"
    assert file.getvalue() == "steps are slow\nlater\n"
