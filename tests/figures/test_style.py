"""Figures are drawn by matplotlib's defaults: a matplotlibrc of the working folder is not obeyed."""

import subprocess
import sys

import matplotlib
import pytest

from aectl.figures.style import default_style

CODE = """
import matplotlib, sys
from aectl.figures import style
assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["font.size"] == 33
with style.default_style():
    figure, axes = style.chart("$x$ and \\\\undefined")
    style.save(figure, __import__("pathlib").Path("figure.png"))
    assert not matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["font.size"] == 10
assert matplotlib.rcParams["font.size"] == 33
"""


def test_no_latex_is_run_for_a_folders_matplotlibrc(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 33\n")
    (tmp_path / "latex").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\nexit 1\n")
    (tmp_path / "latex").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").is_file() and not (tmp_path / "canary").exists()


@pytest.mark.parametrize("gone", [False, True])
def test_no_matplotlibrc_of_the_working_folder_is_read_at_all(tmp_path, gone):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "matplotlibrc").write_bytes(b"\xff\xfe")
    code = f"""
import os, shutil, sys
from aectl.system.matplotlibrc import ignore_matplotlibrc
ignore_matplotlibrc(), ignore_matplotlibrc()
finders = len(sys.meta_path)
if {gone}:
    shutil.rmtree(os.getcwd())
import matplotlib, matplotlib.figure
assert len(sys.meta_path) == finders - 1 and matplotlib.rcParams["font.size"] == 10
assert {gone} or os.getcwd() == {str(folder)!r}
ignore_matplotlibrc()
assert len(sys.meta_path) == finders - 1
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_users_own_style_is_back_afterwards():
    with matplotlib.rc_context({"font.size": 17}):
        with default_style():
            assert matplotlib.rcParams["font.size"] == 10
        assert matplotlib.rcParams["font.size"] == 17
