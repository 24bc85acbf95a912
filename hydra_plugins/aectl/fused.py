"""hydra/launcher=fused: jobs of a sweep that differ in numbers alone, trained in one program."""

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
class FusedConfig:
    """`jobs` processes beside each other, null: as many as cores; in each of them at most `together` runs at a time."""

    _target_: str = "hydra_plugins.aectl.fused.FusedLauncher"
    jobs: int | None = None
    fail_fast: bool = False
    together: int = 64


ConfigStore.instance().store(group="hydra/launcher", name="fused", node=FusedConfig, provider="aectl")


class FusedLauncher(Launcher):
    """Hands the jobs of a sweep to aectl.cli.fused, which is only then imported."""

    def __init__(self, jobs: int | None = None, fail_fast: bool = False, together: int = 64) -> None:
        self.jobs, self.fail_fast, self.together = jobs, fail_fast, together
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's config; jobs are composed where they run."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.cli import fused

        return fused.launch(self.config, job_overrides, initial_job_idx, self.jobs, self.fail_fast, self.together)
