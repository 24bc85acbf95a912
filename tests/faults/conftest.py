"""What the tests of faults share."""

import shutil
from pathlib import Path

import pytest

from tests.faults.small import settings

UPGRADE = Path(__file__).parent / "upgrade"


@pytest.fixture
def kept(tmp_path):
    """Return a function that copies a kept run into this test's folder; it returns the copy's path."""

    def copy(name="undercomplete", to="run"):
        return Path(shutil.copytree(UPGRADE / f"v1-{name}", tmp_path / to))

    return copy


@pytest.fixture(scope="session")
def whole(train_once):
    """Return a function that gives the folder of an uninterrupted run of a model, which is read alone."""
    return lambda model: train_once(f"whole-{model}", *settings(model))
