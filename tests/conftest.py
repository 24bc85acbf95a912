"""The real command, run in this process, in a folder of its own."""

import contextlib
import logging
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from aectl import cli

FAULTS = Path(__file__).parent / "faults"


def pytest_addoption(parser):
    parser.addoption("--torture", action="store_true", help="faults alone, as often as docs/FAULTS.md says")


def pytest_configure(config):
    config.addinivalue_line("markers", "torture: of faults, and long: for `make torture` alone")
    # Known to pytest-cov, where that is there: counting makes what calls much Python a third slower.
    config.addinivalue_line("markers", "no_cover: its lines are not counted, since others run them too")

    # readline, which the workers of pytest-xdist import, sets these: what is printed into a file would be as narrow.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(config, items):
    """Leave out what is for `make torture` alone, or with it, what is not for it."""
    is_long = config.getoption("--torture")

    def is_chosen(item):
        is_marked = item.get_closest_marker("torture") is not None
        return is_marked or FAULTS in item.path.parents if is_long else not is_marked

    chosen = [item for item in items if is_chosen(item)]
    config.hook.pytest_deselected(items=[item for item in items if not is_chosen(item)])
    items[:] = chosen


@pytest.fixture(scope="session")
def torture(request):
    """Whether faults are tried in their long form, as `make torture` does, or in the short one of `make test`."""
    return request.config.getoption("--torture")


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


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads on two busy cores are slower than one at the sizes of tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Baselines are computed once for all tests, those of other workers too, and not into the user's cache."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AECTL_CACHE", str(folder))
        # Nor is the key that signatures are made by the user's own.
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield


@pytest.fixture
def aectl(tmp_path, monkeypatch, capsys):
    """Return a function that types `aectl …` in an empty folder; it returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("AECTL_DEBUG", raising=False)

    def type_in(*arguments):
        monkeypatch.setattr(sys, "argv", ["aectl", *arguments])
        handlers = list(logging.getLogger().handlers)
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        finally:
            for handler in [h for h in logging.getLogger().handlers if h not in handlers]:
                logging.getLogger().removeHandler(handler)
                # The log of a run on a full disk cannot be ended; Python's own exit does not mind either.
                with contextlib.suppress(OSError):
                    handler.close()
        return (code, *capsys.readouterr())

    path, modules = list(sys.path), set(sys.modules)
    yield type_in
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        # One's own modules of this test; the next test may have others of the same names.
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
