"""Names of the folders of runs, of a sweep's jobs, and of Hydra's files."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from aectl.config.instantiate import ConfigError


def make_slug(overrides: Iterable[str], limit: int = 80) -> str:
    """Return the folder name of a sweep's job: `vae-code_32-seed_1` for model=vae model.code=32 seed=1.

    It has at most `limit` letters, digits and `.`, `_`, `+`, `-`. Cluster launchers refuse `=`.
    """
    parts = []
    for override in sorted(overrides, key=lambda word: not word.startswith("name=")):
        key, _, value = override.lstrip("+~").partition("=")
        leaf = key.rpartition(".")[2]
        if leaf == "init_from":
            # In a sweep it is an absolute path.
            value = Path(value.strip("'\"")).name
        if leaf == "_target_":
            parts.append(value.rpartition(".")[2])
        else:
            parts.append(value if key in KEYS_WITHOUT_NAME else f"{leaf}_{value}")
    clean = [re.sub(r"[^A-Za-z0-9.+-]+", "_", part).strip("_.") for part in parts]
    return "-".join(part for part in clean if part)[:limit].rstrip("-_.") or "default"


KEYS_WITHOUT_NAME = (
    "name",
    "model",
    "dataset",
    "noise",
    "penalty",
    "optimizer",
    "schedule",
    "device",
    "experiment",
    "sweep",
)


RUN_NAME = re.compile(r"\w[\w.+@-]{0,99}")
"""A run's name: one folder, valid on all systems, without characters special to shells and globs."""


def check_run_name(name: str | None, otherwise: str) -> str:
    """Return `name`, or `otherwise` if it is None; raises ConfigError if it is not a valid folder name."""
    if name is None:
        return otherwise
    if not RUN_NAME.fullmatch(str(name)) or name == "latest" or str(name).endswith("."):
        raise ConfigError(f"name must be a folder name of letters, digits and . _ + @ -, not '{name}'")
    return str(name)


def scratch_folder() -> str:
    """Return a temporary folder for Hydra's files in sweeps of commands without output folders."""
    return str(Path(tempfile.gettempdir(), f"aectl-{getpass.getuser()}"))


def own_hydra_folder() -> str:
    """Return the name of this process's temporary folder for Hydra's config, until the run's folder is locked."""
    return f".hydra~{os.getpid()}"


MAKES_FOLDERS = ContextVar("MAKES_FOLDERS", default=False)
"""Whether composing a config makes the run's folder: true for a run, false if the config is only inspected."""


def make_new_folder(name: str) -> str:
    """Make a new folder and return its name: `name`, or if it exists `name`-2, `name`-3, …

    Making it reserves the name: only one of several processes succeeds.
    """
    if not (MAKES_FOLDERS.get() and HydraConfig.initialized()):
        # Hydra also resolves this while it composes a config.
        return name
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            tried = name if number == 1 else f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                Path(tried).mkdir()
                return tried
    except OSError:
        # Hydra runs into the same error and reports it.
        pass
    return name


SWEEP: ContextVar[Path | None] = ContextVar("SWEEP", default=None)
"""The folder that the current sweep will make."""


def announce_sweep(folder: Path) -> None:
    """Record the folder of a sweep that starts now, for `remove_abandoned_sweep`; an existing folder is kept."""
    SWEEP.set(None if folder.exists() else folder)


@contextlib.contextmanager
def remove_abandoned_sweep() -> Iterator[None]:
    """Remove the sweep's folder if the block raises before a job is planned; Hydra makes the folder early."""
    token = SWEEP.set(None)
    try:
        yield
    except BaseException:
        folder = SWEEP.get()
        is_planned = folder is not None and ((folder / "sweep.json").exists() or any(folder.glob("*/")))
        if folder is not None and not is_planned:
            shutil.rmtree(folder, ignore_errors=True)
            remove_empty_folders(folder.parent, 2)
        raise
    finally:
        SWEEP.reset(token)


def remove_empty_folders(folder: Path, levels: int) -> None:
    """Remove a folder and its parents while they are empty, at most `levels`, and never the working folder."""
    here = Path.cwd()
    for one in [folder, *folder.parents][:levels]:
        if one in (here, *here.parents) or not one.is_dir() or any(one.iterdir()):
            return
        one.rmdir()


@contextlib.contextmanager
def allow_new_folders(does: bool) -> Iterator[None]:
    """Set in the block whether composing a config makes the run's folder."""
    token = MAKES_FOLDERS.set(does)
    try:
        yield
    finally:
        MAKES_FOLDERS.reset(token)
