"""The real command, run in this process, in a folder of its own."""

import contextlib
import io
import logging
import os
import shutil
import sys
import zlib
from collections import Counter
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra._internal.hydra import Hydra

from aectl.cli import main as cli
from tests.small import training_words


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="slow tests too, and faults as often as docs/FAULTS.md says")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: for `make test-all` alone")
    # Known to pytest-cov, where that is there: counting makes what calls much Python a third slower.
    config.addinivalue_line("markers", "no_cover: its lines are not counted, since others run them too")

    # readline, which the workers of pytest-xdist import, sets these: what is printed into a file would be as narrow.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pytest_collection_modifyitems(config, items):
    """Deselect the slow tests, unless --all is given or a test is named on the command line."""
    if config.getoption("--all") or any("::" in argument for argument in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


@pytest.fixture(scope="session")
def torture(request):
    """Whether faults are injected as often as in docs/FAULTS.md, or in the short form of `make test`."""
    return request.config.getoption("--all")


@pytest.fixture
def tally(record_property):
    """Return a function that counts what a test has seen: tally("kills survived", 3)."""

    def count(what, number=1):
        record_property(f"tally {what}", number)

    return count


def pytest_terminal_summary(terminalreporter, config):
    """Print what the tests have counted, those of other processes too."""
    if not config.getoption("--all"):
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


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory):
    """Return the folder that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True, scope="session")
def own_cache(session_folder):
    """Baselines are computed once for all tests, those of other workers too, and not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AECTL_CACHE", str(session_folder / "cache"))
        # Nor is the key that signatures are made by the user's own.
        patch.setenv("XDG_DATA_HOME", str(session_folder / "cache"))
        yield


def run_aectl(*arguments):
    """Run `aectl …` in this process and return its exit code."""
    handlers = list(logging.getLogger().handlers)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["aectl", *arguments])
            if not any("hydra.mode" in word for word in arguments):
                # Hydra composes the config once more to learn of this key alone, for a third of a short run's time.
                patch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)
            cli.main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    finally:
        for handler in [h for h in logging.getLogger().handlers if h not in handlers]:
            logging.getLogger().removeHandler(handler)
            # The log of a run on a full disk cannot be ended; Python's own exit does not mind either.
            with contextlib.suppress(OSError):
                handler.close()
    return 0


@pytest.fixture
def aectl(tmp_path, monkeypatch, capsys):
    """Return a function that types `aectl …` in an empty folder; it returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("AECTL_DEBUG", raising=False)

    path, modules = list(sys.path), set(sys.modules)
    yield lambda *arguments: (run_aectl(*arguments), *capsys.readouterr())
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        # One's own modules of this test; the next test may have others of the same names.
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def train_once(session_folder, own_cache):
    """Return a function that trains what is typed into a folder that all workers share, unless it is there already.

    What it returns is read, never written.
    """

    def train(name, *typed):
        folder = session_folder / "runs" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                said = io.StringIO()
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    code = run_aectl("train", *typed, f"hydra.run.dir={folder}")
                if code:
                    shutil.rmtree(folder, ignore_errors=True)
                    pytest.fail(said.getvalue())
        return folder

    return train


@pytest.fixture(scope="session")
def shared_run(train_once):
    """Return a function that gives the folder of a small run on digits; `trained` copies it, to be changed."""

    def get(model, *words):
        typed = training_words(model, *words)
        return train_once(f"{model}-{zlib.crc32(repr(typed).encode()):08x}", *typed)

    return get


@pytest.fixture
def trained(aectl, shared_run):
    """Return a function that copies a shared run into this test's folder, by default as the latest of outputs/."""

    def copy(model="dae", *words, to=None):
        source = shared_run(model, *words)
        return Path(shutil.copytree(source, to or f"outputs/digits/{model}/{source.name}"))

    return copy
