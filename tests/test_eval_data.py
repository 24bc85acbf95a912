"""The images that eval fetches to tell apart from the run's: announced, small, and given up soon if out of reach."""

import logging
import time
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from aectl.commands import eval_data
from aectl.data import downloads
from aectl.data.datasets import fashion_mnist, mnist
from aectl.data.downloads import DataError


def opened(root):
    return SimpleNamespace(
        dataset=mnist(root),
        config=OmegaConf.create({"dataset": {"root": None}}),
        device=SimpleNamespace(torch=torch.device("cpu")),
    )


@pytest.fixture
def asked(tmp_path, monkeypatch, caplog):
    """Return a function that asks for outliers where there are none on this machine, and the messages of it."""
    monkeypatch.setenv("AECTL_DATA", str(tmp_path))
    caplog.set_level(logging.INFO, "aectl")

    def ask(outliers="auto"):
        found = eval_data.load_outliers(opened(str(tmp_path)), OmegaConf.create({"outliers": outliers, "quick": False}))
        return found, [record.getMessage() for record in caplog.records]

    return ask


def unreachable(monkeypatch, seen):
    def fetcher(names, scratch):
        seen.append((list(names), downloads.connect_seconds(), downloads.command_seconds()))
        raise OSError("no route")
        yield

    monkeypatch.setattr(downloads, "list_sources", lambda name: iter([("a mirror", fetcher)]))


def test_a_download_is_announced_with_its_size_and_how_to_skip_it(asked, monkeypatch):
    seen = []
    unreachable(monkeypatch, seen)
    found, messages = asked()
    assert found == {}
    assert messages[0] == (
        "anomalies: fetching the test images of FashionMNIST, 5 MB (31 MB if from a package manager); "
        "outliers=none skips them"
    )
    assert messages[-1].startswith("no outliers: cannot download t10k-images-idx3-ubyte")
    assert "outliers=fashion_mnist tries longer" in messages[-1]
    # Of the set only what is needed, and no long waits for what nobody asked for.
    assert seen == [(list(eval_data.TEST_FILES), 3, 15)]


def test_outliers_that_are_asked_for_are_waited_for_and_needed(asked, monkeypatch):
    seen = []
    unreachable(monkeypatch, seen)
    with pytest.raises(DataError, match="cannot download"):
        asked("fashion_mnist")
    assert seen == [(list(eval_data.TEST_FILES), 10, 180)]


def test_none_fetches_nothing(asked, monkeypatch):
    monkeypatch.setattr(downloads, "fetch", lambda *_, **__: pytest.fail("fetched"))
    assert asked("none") == ({}, [])


def test_a_source_that_never_answers_is_given_up_soon(asked, monkeypatch):
    monkeypatch.setattr(downloads, "BRIEF_COMMAND_SECONDS", 0.2)

    def sleeper(names, scratch):
        downloads.run_package_manager("sleep", "30", folder=scratch)
        yield

    monkeypatch.setattr(downloads, "list_sources", lambda name: iter([("a package manager", sleeper)]))
    start = time.monotonic()
    found, messages = asked()
    assert found == {} and "no answer in" in messages[-1]
    assert time.monotonic() - start < 10


def test_test_files_alone_are_kept(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(
        downloads, "list_sources", lambda name: iter([("a mirror", lambda n, s: iter(names.extend(n) or []))])
    )
    with pytest.raises(DataError):
        downloads.fetch("fashion_mnist", eval_data.TEST_FILES, tmp_path / "FashionMNIST" / "raw", others=False)
    assert names == list(eval_data.TEST_FILES)
    with pytest.raises(DataError):
        fashion_mnist(str(tmp_path)).split("test")
    assert len(names) == 2 + 4
