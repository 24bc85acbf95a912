"""hydra/launcher=slurm and hydra/launcher=ray: the jobs of a sweep on other machines."""

# No annotations from the future: Hydra loads this file without a place among the modules, where dataclasses look.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SlurmConfig:
    """`jobs` of the array at a time, null: no limit; `settings` are more of submitit's, as slurm_account."""

    _target_: str = "hydra_plugins.aectl.clusters.SlurmLauncher"
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
    """`address` auto: the cluster that this machine belongs to, null: one started here; cpus and gpus of each job."""

    _target_: str = "hydra_plugins.aectl.clusters.RayLauncher"
    jobs: int | None = None
    fail_fast: bool = False
    address: str | None = "auto"
    cpus: int = 1
    gpus: float = 0.0


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmConfig, provider="aectl")
ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConfig, provider="aectl")


class ClusterLauncher(Launcher):
    """Hands the jobs to aectl.sweep.cluster_launch, which is only then imported."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's config; jobs are composed where they run."""
        self.config = config


class SlurmLauncher(ClusterLauncher):
    """SLURM, by submitit."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.sweep import cluster_launch

        return cluster_launch.on_slurm(self.config, job_overrides, initial_job_idx, **self.settings)


class RayLauncher(ClusterLauncher):
    """A Ray cluster."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, nan if it has none."""
        from aectl.sweep import cluster_launch

        return cluster_launch.on_ray(self.config, job_overrides, initial_job_idx, **self.settings)
