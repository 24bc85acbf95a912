"""What the tests of faults share: they count what they have seen, and `make torture` prints the counts."""

import shutil
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture
def tally(record_property):
    """Return a function that counts what a test has seen: tally("kills survived", 3)."""

    def count(what, number=1):
        record_property(f"tally {what}", number)

    return count


def pytest_terminal_summary(terminalreporter, config):
    """Print what the tests have counted, those of other processes too."""
    if not config.getoption("--torture"):
        return
    counts = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, number in report.user_properties:
            if name.startswith("tally "):
                counts[name.removeprefix("tally ")] += number
    terminalreporter.section("faults")
    for what, number in counts.items():
        terminalreporter.write_line(f"{number:6,} {what}")


UPGRADE = Path(__file__).parent / "upgrade"


@pytest.fixture
def kept(tmp_path):
    """Return a function that copies a kept run into this test's folder; it returns the copy's path."""

    def copy(name="undercomplete", to="run"):
        return Path(shutil.copytree(UPGRADE / f"v1-{name}", tmp_path / to))

    return copy
