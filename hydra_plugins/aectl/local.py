"""hydra/launcher=local, the default: the jobs of a sweep beside each other on this machine."""

# No annotations from the future: Hydra loads this file without a place among the modules, where dataclasses look.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalConfig:
    """`jobs` processes beside each other, null: as many as cores; `fail_fast` stops them all when one has failed."""

    _target_: str = "hydra_plugins.aectl.local.LocalLauncher"
    jobs: int | None = None
    fail_fast: bool = False


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConfig, provider="aectl")


class LocalLauncher(Launcher):
    """Hands the jobs of a sweep to aectl.sweep.launch, which is only then imported."""

    def __init__(self, jobs: int | None = None, fail_fast: bool = False) -> None:
        self.jobs, self.fail_fast = jobs, fail_fast
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's config; jobs are composed where they run."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.sweep import launch as sweep

        return sweep.launch(self.config, job_overrides, initial_job_idx, self.jobs, self.fail_fast)
