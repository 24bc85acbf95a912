"""Folders of data and baselines in the user's cache, unless environment variables name others."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


class NoHomeError(OSError):
    """The home folder is unknown: HOME is not set and the user id has no account."""


def user_cache() -> Path:
    """Return aectl's folder in the user's cache; raises NoHome."""
    try:
        found = Path(platformdirs.user_cache_dir("aectl", False))
    except RuntimeError:
        found = Path("~")
    # Older versions of platformdirs do not expand ~ if the home is unknown; a folder named ~ would be made.
    if not found.is_absolute():
        raise NoHomeError("no home folder is known: HOME is not set")
    return found


def baseline_folder() -> Path:
    """Return the folder of baselines, in $AECTL_CACHE or in the user's cache; raises NoHome."""
    chosen = os.environ.get("AECTL_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache()
