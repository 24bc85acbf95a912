"""hydra/launcher=local (the default), slurm and ray: where the jobs of a sweep run."""

# No annotations from the future: Hydra loads this file outside sys.modules, where dataclasses look for them.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalConfig:
    """Processes of this machine.

    `jobs` run at a time, null: one per idle core. `fail_fast` stops all jobs when one fails.
    """

    _target_: str = "hydra_plugins.aectl.launchers.LocalLauncher"
    jobs: int | None = None
    fail_fast: bool = False


@dataclass
class SlurmConfig:
    """A SLURM job array.

    `jobs` run at a time, null: no limit. `settings` are further parameters of submitit, such as slurm_account.
    """

    _target_: str = "hydra_plugins.aectl.launchers.SlurmLauncher"
    jobs: int | None = None
    fail_fast: bool = False
    cluster: str | None = None
    minutes: int = 60
    partition: str | None = None
    cpus: int = 4
    gpus: int = 0
    memory_gb: int = 8
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayConfig:
    """A Ray cluster.

    `address` auto: the cluster that this machine belongs to, null: one started here. `cpus` and `gpus` are per job.
    """

    _target_: str = "hydra_plugins.aectl.launchers.RayLauncher"
    jobs: int | None = None
    fail_fast: bool = False
    address: str | None = "auto"
    cpus: int = 1
    gpus: float = 0.0


for name, node in (("local", LocalConfig), ("slurm", SlurmConfig), ("ray", RayConfig)):
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="aectl")


class SweepLauncher(Launcher):
    """Base of the launchers: keeps the settings, and imports aectl only when a sweep starts."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's config; jobs are composed where they run."""
        self.config = config


class LocalLauncher(SweepLauncher):
    """Processes of this machine."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.cli.main import run_command
        from aectl.sweep.launch import launch_locally

        return launch_locally(self.config, job_overrides, initial_job_idx, run_command, **self.settings)


class SlurmLauncher(SweepLauncher):
    """SLURM, through submitit."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.cli.main import run_command
        from aectl.sweep.cluster import launch_on_slurm

        return launch_on_slurm(self.config, job_overrides, initial_job_idx, run_command, **self.settings)


class RayLauncher(SweepLauncher):
    """A Ray cluster."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.cli.main import run_command
        from aectl.sweep.cluster import launch_on_ray

        return launch_on_ray(self.config, job_overrides, initial_job_idx, run_command, **self.settings)
