"""The progress bar of an evaluation: what is being made and what is left, on a terminal alone."""

import io
import sys

import pytest

from aectl.commands.eval_progress import describe_step, table_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("left", "text"),
    [
        ([], "probes"),
        (["figures"], "probes, then figures"),
        (["clusters", "likelihood", "samples", "figures"], "probes, then clusters, likelihood and 2 more"),
    ],
)
def test_a_step_is_named_with_what_is_left(left, text):
    assert describe_step("probes", left) == text


def test_a_terminal_shows_the_table_being_made_and_a_file_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with table_progress(["codes", "probes", "figures"]) as progress:
            progress("codes")
            progress("probes")
            progress.bar.refresh()
        text = stream.getvalue()
        assert ("probes, then figures" in text) is shown
        assert ("1/3" in text) is shown
        assert bool(text) is shown
