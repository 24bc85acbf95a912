"""Homes and caches that are unset, unwritable or read-only; backends of matplotlib that are not there."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from aectl.data.content_split import hash_image_files
from aectl.data.downloads import DataError, data_folder
from aectl.evaluation import baseline_cache
from aectl.evaluation.baseline_cache import Cache, cache_folder
from tests.faults.children import Fault, finish
from tests.small import DENSE, QUICK

SETTINGS = ("HOME", "XDG_CACHE_HOME", "AECTL_DATA", "AECTL_CACHE")


@pytest.fixture
def homeless(monkeypatch):
    """No variable tells of a home, and the user id has no account."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)

    def getpwuid(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    monkeypatch.setattr(baseline_cache, "NOTED", set())


def test_without_a_home_the_error_names_the_variable(homeless, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"HOME is not set\n  Set AECTL_DATA=DIR"):
        data_folder()
    monkeypatch.setenv("AECTL_DATA", str(tmp_path))
    assert data_folder() == tmp_path


def test_without_a_home_nothing_is_made_in_the_working_folder(homeless, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("a.png")
    assert cache_folder("digest") is None
    assert Cache(cache_folder("digest")).numbers("one", lambda: 1) == 1
    assert hash_image_files([tmp_path / "a.png"]).shape == (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert caplog.text.count("set AECTL_CACHE=DIR") == 1


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch, caplog, where):
    monkeypatch.setattr(baseline_cache, "NOTED", set())
    if where == "file":
        # Its parent is a file.
        (tmp_path / "cache").touch()
        found = Cache(tmp_path / "cache" / "x")
    else:
        found = Cache(tmp_path / "cache")
        monkeypatch.setattr(baseline_cache, "write_json", fail)
    for number in (1, 2):
        assert found.numbers("one", lambda number=number: number) == number
    assert caplog.text.count("set AECTL_CACHE=DIR") == 1
    assert not list(tmp_path.glob("**/.one*"))


def fail(content, path):
    path.touch()
    raise OSError(30, "Read-only file system")


def test_what_a_read_only_cache_holds_is_used(tmp_path, monkeypatch):
    Cache(tmp_path).numbers("one", lambda: 1)
    monkeypatch.setattr(baseline_cache, "FileLock", None)
    assert Cache(tmp_path).numbers("one", lambda: 2) == 1


def test_an_error_of_what_is_computed_is_no_error_of_the_cache(tmp_path):
    def compute():
        raise OSError(5, "its own")

    with pytest.raises(OSError, match="its own"):
        Cache(tmp_path).numbers("one", compute)


@pytest.mark.skipif(sys.platform != "linux", reason="powers are given up as on Linux")
def test_a_folder_of_images_names_the_variable_where_the_cache_is_not_writable(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "home").mkdir(mode=0o500)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ["train", "dataset=folder", f"dataset.root={tmp_path}/pictures", "dataset.size=8", "device.threads=1"]
    code, said = finish(words, tmp_path / "run", Fault(obey=True))
    assert code == 2, said
    assert "Set AECTL_DATA=DIR" in said.splitlines()[-1]


def test_a_backend_that_is_not_there_spoils_no_figures(aectl, kept, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    assert aectl("sample", f"run={kept()}", "kind=reconstruction", "n=4")[0] == 0
    assert os.environ["MPLBACKEND"] == "nonsense"


def test_a_run_that_needs_no_cache_needs_no_home(aectl, homeless, tmp_path):
    code, _, err = aectl("train", *QUICK, *DENSE, "model.code=2", f"hydra.run.dir={tmp_path}/run")
    assert (code, err) == (0, "")
