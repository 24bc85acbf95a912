"""Launchers of sweeps: hydra/launcher=local (the default), slurm and ray, one class each.

To add one, write a dataclass of its settings with a `launch` method here, and a YAML in conf/sweep/ that selects it.
"""

# Without `from __future__ import annotations`: dataclasses resolve string annotations through sys.modules, and Hydra
# loads this file without adding it there.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Sweep(NamedTuple):
    """What a launcher runs: the sweep's config, the overrides of its jobs and the number of the first one.

    `run_command` runs an aectl command.
    """

    config: DictConfig
    job_overrides: Sequence[Sequence[str]]
    first: int
    run_command: Any


@dataclass
class Backend:
    """Base class of the launchers' settings.

    `jobs` run at a time. `fail_fast` stops all jobs when one fails.
    """

    _target_: str = "hydra_plugins.aectl.launchers.SweepLauncher"
    backend: str = "???"
    jobs: int | None = None
    fail_fast: bool = False

    @property
    def keys(self) -> dict[str, Any]:
        """The settings under hydra.launcher, without those that select this class."""
        return {key: value for key, value in vars(self).items() if key not in ("_target_", "backend")}

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        """Run the jobs and return the objective of each, NaN if it has none.

        Import modules inside this method, because this file is loaded whenever aectl starts.
        `aectl.sweep.launch.run_sweep` plans the jobs, skips those that are done and shows their progress.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define launch(…)")


BACKENDS: dict[str, type[Backend]] = {}


def register_launcher(name: str) -> Callable[[type[Backend]], type[Backend]]:
    """Register a dataclass as hydra/launcher=`name`; its fields become the keys hydra.launcher.*."""

    def register_class(cls: type[Backend]) -> type[Backend]:
        BACKENDS[name] = cls
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=cls(backend=name), provider="aectl")
        return cls

    return register_class


@register_launcher("local")
@dataclass
class Local(Backend):
    """Worker processes on this machine; `jobs` null is one for each idle core."""

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        from aectl.sweep.launch import launch_locally

        return launch_locally(*sweep, **self.keys)


@register_launcher("slurm")
@dataclass
class Slurm(Backend):
    """A SLURM job array; `jobs` null is no limit.

    `settings` are further parameters of submitit, such as slurm_account.
    """

    cluster: str | None = None
    minutes: int = 60
    partition: str | None = None
    cpus: int = 4
    gpus: int = 0
    memory_gb: int = 8
    settings: dict[str, Any] = field(default_factory=dict)

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        from aectl.sweep.cluster import launch_on_slurm

        return launch_on_slurm(*sweep, **self.keys)


@register_launcher("ray")
@dataclass
class Ray(Backend):
    """A Ray cluster.

    `address` auto is the cluster that this machine belongs to; null starts one here. `cpus` and `gpus` are per job.
    """

    address: str | None = "auto"
    cpus: int = 1
    gpus: float = 0.0

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        from aectl.sweep.cluster import launch_on_ray

        return launch_on_ray(*sweep, **self.keys)


class SweepLauncher(Launcher):
    """Hydra's launcher for every backend; passes the jobs to the selected one."""

    def __init__(self, backend: str, **keys: Any) -> None:
        self.backend = BACKENDS[backend](backend=backend, **keys)
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the sweep's config; each job composes its own config when it runs."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, NaN if it has none."""
        from aectl.cli.main import run_command

        return self.backend.launch(Sweep(self.config, job_overrides, initial_job_idx, run_command))
