"""The wheel carries conf/ and works from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.lowest import dependencies, lowest
from tests.pythons import PYTHONS

ROOT = Path(__file__).parents[1]


def run(*command, cwd, **environment):
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_trains_from_another_folder(tmp_path):
    source, site, work = tmp_path / "source", tmp_path / "site", tmp_path / "work"
    work.mkdir()
    # A copy, so that the build leaves nothing in the checkout.
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).split()
    for name in [
        n for n in listed if n.startswith(("aectl/", "hydra_plugins/", "conf/", "pyproject", "README", "LICENSE"))
    ]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"aectl/{p.relative_to(ROOT)}" for p in ROOT.glob("conf/**/*.yaml")} <= names
    kept = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("aectl/**/*") if p.is_file() and p.suffix != ".pyc"}
    assert kept <= names
    assert {"hydra_plugins/aectl/launchers.py", "hydra_plugins/aectl/search.py"} <= names
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    settings = ("model=vae", "dataset=digits", "epochs=1", "device=cpu", "device.threads=1")
    out = run(sys.executable, "-m", "aectl", "train", *settings, cwd=work, PYTHONPATH=str(site))
    assert "best val/loss" in out
    where = run(sys.executable, "-c", "import aectl; print(aectl.__file__)", cwd=work, PYTHONPATH=str(site))
    assert where.startswith(str(site))
    assert list(work.glob("outputs/digits/vae/*/run.json"))


@pytest.mark.slow
def test_an_installed_aectl_finds_its_launchers(tmp_path):
    """An editable install must show Hydra the plugins as well, without the checkout on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for name in ("local", "slurm", "ray"):
        command = [sys.executable, "-m", "aectl", "train", f"sweep={name}", "--cfg", "hydra", "-p", "hydra.launcher"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert "hydra_plugins.aectl." in done.stdout, done.stderr


def test_every_dependency_has_a_lower_bound_to_be_tried():
    assert len(lowest()) == len(dependencies()) > 20
    assert lowest()["torch"].startswith("2.")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_has_one_pin_of_each_package_within_its_bounds(python):
    """Whether an index has such releases is seen by `make test-pythons`."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    applying = [
        pin for pin in map(Requirement, lines) if not pin.marker or pin.marker.evaluate({"python_version": python})
    ]
    pins = {pin.name: str(pin.specifier).removeprefix("==") for pin in applying}
    assert len(pins) == len(applying)
    for wanted in map(Requirement, dependencies()):
        assert wanted.specifier.contains(pins[wanted.name]), wanted


PIP = """#!/bin/sh
echo "Collecting numpy"
echo "  Getting requirements to build editable: finished with status 'done'"
echo "ERROR: Cannot install aectl and numpy==9 because these package versions have conflicting dependencies." >&2
exit {code}
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 1])
def test_make_prints_the_reason_of_pip_where_it_fails_and_nothing_else(tmp_path, code):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").write_text(PIP.format(code=code))
    (tmp_path / "env/bin/python").chmod(0o755)
    # `make test` is a make as well, and would have the inner one announce its folder.
    alone = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "setup", "PYTHON=true", "VENV=env"]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.stdout.startswith("installing into env")
    assert len(done.stdout.splitlines()) == 1
    assert ("conflicting dependencies" in done.stderr) == (code != 0) == (done.returncode != 0)
    assert "Collecting" not in done.stderr and "'done'" not in done.stderr
