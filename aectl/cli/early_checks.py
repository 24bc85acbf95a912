"""Checks that do not need torch, made before a command imports it, which takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aectl.config.schema import check_ranges
from aectl.runs.run import find_run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_early(config: DictConfig, command: str) -> None:
    """Raise ConfigError for a value out of range or a missing run, and remove what Hydra has written for the run."""
    try:
        check_ranges(config)
        key = "init_from" if command == "train" else "run"
        if config.get(key) == "latest" and not config.get("resume"):
            find_run("latest")
    except Exception:
        if command == "train":
            remove_refused_run()
        raise


def remove_refused_run() -> None:
    """Remove the files that Hydra has written for a run that will not start."""
    from hydra.core.hydra_config import HydraConfig

    from aectl.commands.train_lock import discard_start
    from aectl.config.folder_names import own_hydra_folder
    from aectl.runs.run import Run

    hydra = HydraConfig.get()
    # Any other folder was set by the user and may hold other files.
    if hydra.output_subdir == own_hydra_folder():
        discard_start(Run(Path(hydra.runtime.output_dir)), hydra.output_subdir)
