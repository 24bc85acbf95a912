"""What the tests of faults share."""

import shutil
from pathlib import Path

import pytest

UPGRADE = Path(__file__).parent / "upgrade"


@pytest.fixture
def kept(tmp_path):
    """Return a function that copies a kept run into this test's folder; it returns the copy's path."""

    def copy(name="undercomplete", to="run"):
        return Path(shutil.copytree(UPGRADE / f"v1-{name}", tmp_path / to))

    return copy
