"""Refuse what needs no torch to see, before a command whose imports take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aectl.config.schema import check_ranges
from aectl.runs.run import find

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_early(config: DictConfig, command: str) -> None:
    """Raise an error for a value out of its range or a missing run; what Hydra wrote for a refused run is removed."""
    try:
        check_ranges(config)
        key = "init_from" if command == "train" else "run"
        if config.get(key) == "latest" and not config.get("resume"):
            find("latest")
    except Exception:
        if command == "train":
            remove_refused_run()
        raise


def remove_refused_run() -> None:
    """Remove what Hydra has written for a run that is not going to start."""
    from hydra.core.hydra_config import HydraConfig

    from aectl.commands.train_lock import discard
    from aectl.config.folder_names import aside
    from aectl.runs.run import Run

    hydra = HydraConfig.get()
    # Another folder than our own was set by the user, and may hold other things.
    if hydra.output_subdir == aside():
        discard(Run(Path(hydra.runtime.output_dir)), hydra.output_subdir)
