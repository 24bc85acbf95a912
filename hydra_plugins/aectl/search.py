"""hydra/sweeper=search: a study of Optuna's, with runs beside each other that stop early where others were better."""

# No annotations from the future: Hydra loads this file without a place among the modules, where dataclasses look.

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConfig:
    """`params` is the space by key, in the grammar of overrides: choice(4,8), interval(0.1,1), range(2,9).

    `storage` null is a file in the sweep's folder, a path a journal that machines with one file system share, a URL a
    database; `prune` null prunes nothing, else it is the number of runs that no other is held against.
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
    """Hands the search to aectl.sweep.optuna_search, which is only then imported."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's config; runs are composed where they run."""
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Search among the values that the arguments leave open."""
        from aectl.cli.main import run_command
        from aectl.sweep.optuna_search import run_search

        run_search(self.config, arguments, run_command, **self.settings)
