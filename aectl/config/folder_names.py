"""Names of the folders that configs ask for: of runs, of a sweep's jobs, and of what Hydra writes for itself."""

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
    """Return a folder name that tells a sweep's jobs apart: `vae-code_32-seed_1` for model=vae model.code=32 seed=1.

    It holds letters, digits, `.`, `_`, `+` and `-` alone (launchers for clusters refuse `=`), at most `limit` of them.
    """
    parts = []
    for override in sorted(overrides, key=lambda word: not word.startswith("name=")):
        key, _, value = override.lstrip("+~").partition("=")
        leaf = key.rpartition(".")[2]
        if leaf == "init_from":
            # A sweep names it from the root on.
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
"""A name of a run: that of one folder everywhere, with nothing that a shell or a glob would take for something else."""


def check_run_name(name: str | None, otherwise: str) -> str:
    """Return the folder name of a run: its `name`, if it has one; raises ConfigError if that is no name of a folder."""
    if name is None:
        return otherwise
    if not RUN_NAME.fullmatch(str(name)) or name == "latest" or str(name).endswith("."):
        raise ConfigError(f"name must be that of a folder, letters, digits and . _ + @ - alone, not '{name}'")
    return str(name)


def scratch_folder() -> str:
    """Return a folder for what Hydra writes about sweeps of commands that keep nothing themselves."""
    return str(Path(tempfile.gettempdir(), f"aectl-{getpass.getuser()}"))


def own_hydra_folder() -> str:
    """Return the name of a folder that Hydra may write into before the run's folder is this process's own."""
    return f".hydra~{os.getpid()}"


MAKES_FOLDERS = ContextVar("MAKES_FOLDERS", default=False)
"""Whether folders that configs name are made: a run is to begin, and no config is only looked at."""


def make_new_folder(name: str) -> str:
    """Make a new folder and return its name, `name`, or where that is there already `name`-2, `name`-3, …

    To make it is to claim it: of several processes that try to only one can.
    """
    if not (MAKES_FOLDERS.get() and HydraConfig.initialized()):
        # Hydra asks when it composes a config, too.
        return name
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            tried = name if number == 1 else f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                Path(tried).mkdir()
                return tried
    except OSError:
        # Hydra will meet the same, and say it.
        pass
    return name


SWEEP: ContextVar[Path | None] = ContextVar("SWEEP", default=None)
"""The folder that the sweep of this command is to make."""


def announce_sweep(folder: Path) -> None:
    """Record the folder of a sweep that starts now, for `removing_abandoned_sweep`; one that exists is left alone."""
    SWEEP.set(None if folder.exists() else folder)


@contextlib.contextmanager
def remove_abandoned_sweep() -> Iterator[None]:
    """Remove the sweep's folder, which Hydra makes early, if the block raises before any job is planned."""
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
    """Remove a folder and its parents, so many levels of them, as far as they are empty; never the working folder."""
    here = Path.cwd()
    for one in [folder, *folder.parents][:levels]:
        if one in (here, *here.parents) or not one.is_dir() or any(one.iterdir()):
            return
        one.rmdir()


@contextlib.contextmanager
def allow_new_folders(does: bool) -> Iterator[None]:
    """Let configs, within, claim the folders that they name for their run, or not."""
    token = MAKES_FOLDERS.set(does)
    try:
        yield
    finally:
        MAKES_FOLDERS.reset(token)
