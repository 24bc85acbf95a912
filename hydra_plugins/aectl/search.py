"""hydra/sweeper=search: hyperparameter search with Optuna; jobs run in parallel and unpromising ones stop early."""

# Without `from __future__ import annotations`: dataclasses resolve string annotations through sys.modules, and Hydra
# loads this file without adding it there.

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConfig:
    """Settings of the search.

    `params` maps each searched key to its values in the grammar of overrides: choice(4,8), interval(0.1,1), range(2,9).
    `storage` is a URL of a database, a path of a journal file on a file system that several machines share, or null for
    a file in the sweep's folder. `prune` is the number of trials that must complete before any is pruned; null prunes
    none.
    """

    _target_: str = "hydra_plugins.aectl.search.SearchSweeper"
    trials: int = 20
    storage: str | None = None
    study: str = "aectl"
    seed: int = 0
    prune: int | None = 5
    params: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConfig, provider="aectl")


class SearchSweeper(Sweeper):
    """Passes the search to aectl.sweep.optuna_search, which is imported only when a search starts."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the sweep's config; each job composes its own config when it runs."""
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Search the values of the keys to which the arguments give several."""
        from aectl.cli.main import run_command
        from aectl.sweep.optuna_search import run_search

        run_search(self.config, arguments, run_command, **self.settings)
