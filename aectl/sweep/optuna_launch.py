"""aectl train -m sweep=optuna: the best of what is left open, found by Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from aectl.config import ConfigError, to_plain
from aectl.sweep import launch as sweep
from aectl.sweep.optuna_search import Search, open_study
from aectl.sweep.plots import draw_study
from aectl.sweep.progress import view
from aectl.sweep.search_space import Space
from aectl.sweep.worker_pool import Both, Places
from aectl.system.terminal import console, counted


def launch(
    config: DictConfig,
    arguments: Sequence[str],
    *,
    trials: int,
    storage: str | None,
    study: str,
    seed: int,
    prune: int | None,
    params: Mapping[str, Any],
) -> None:
    """Search until the study has as many trials as `trials`, and draw how it went."""
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, not {trials}")
    sweep.check_settings(config)
    space, folder = Space(arguments, to_plain(OmegaConf.create(dict(params)))), sweep.folder_of(config)
    found = open_study(folder, storage, study, seed, prune)
    left = trials - len(found.get_trials(deepcopy=False))
    launcher = config.hydra.launcher
    number = sweep.places_for(config, launcher.get("jobs"), trials)
    search = Search(found, space, folder, sweep.typed(), trials)
    known = f", {trials - left} of them known already" if left < trials else ""
    console().print(f"{counted(trials, 'trial')}{known}; {number} at a time")
    watcher = Both(search, view(trials, lambda job: " ".join(job.overrides[len(space.fixed) :])))
    task = sweep.task_of(config, sweep.threads_for(number), arguments)
    sweep.carry_out(folder, search.jobs(), Places(number, task, watcher, launcher.get("fail_fast", False)))
    draw_study(found, folder / "figures")
