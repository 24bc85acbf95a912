"""hydra/launcher=local (the default), slurm and ray: where the jobs of a sweep run, a class for each.

To add one, write a dataclass of its settings here that defines `launch`, and a YAML in conf/sweep/ that chooses it.
"""

# No annotations from the future: Hydra loads this file outside sys.modules, where dataclasses look for them.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Sweep(NamedTuple):
    """What is launched: the sweep's config, the overrides and first number of its jobs, and what runs a command."""

    config: DictConfig
    job_overrides: Sequence[Sequence[str]]
    first: int
    run_command: Any


@dataclass
class Place:
    """Base of the places where jobs run: `jobs` run at a time, and `fail_fast` stops all of them when one fails."""

    _target_: str = "hydra_plugins.aectl.launchers.SweepLauncher"
    place: str = "???"
    jobs: int | None = None
    fail_fast: bool = False

    @property
    def keys(self) -> dict[str, Any]:
        """The settings under hydra.launcher, without those by which Hydra finds this class."""
        return {key: value for key, value in vars(self).items() if key not in ("_target_", "place")}

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        """Run the jobs and return the objective of each, NaN if it has none.

        Import inside what it needs: this file is loaded whenever aectl starts. `aectl.sweep.launch.run_sweep` plans the
        jobs, skips those that are done and shows their progress.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no launch")


PLACES: dict[str, type[Place]] = {}


def launcher(name: str) -> Callable[[type[Place]], type[Place]]:
    """Make a dataclass available as hydra/launcher=`name`, with its fields as the keys hydra.launcher.*."""

    def register(cls: type[Place]) -> type[Place]:
        PLACES[name] = cls
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=cls(place=name), provider="aectl")
        return cls

    return register


@launcher("local")
@dataclass
class Local(Place):
    """Processes of this machine; `jobs` null is one for each idle core."""

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        from aectl.sweep.launch import launch_locally

        return launch_locally(*sweep, **self.keys)


@launcher("slurm")
@dataclass
class Slurm(Place):
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


@launcher("ray")
@dataclass
class Ray(Place):
    """A Ray cluster.

    `address` auto: the cluster that this machine belongs to, null: one started here. `cpus` and `gpus` are per job.
    """

    address: str | None = "auto"
    cpus: int = 1
    gpus: float = 0.0

    def launch(self, sweep: Sweep) -> Sequence[JobReturn]:
        from aectl.sweep.cluster import launch_on_ray

        return launch_on_ray(*sweep, **self.keys)


class SweepLauncher(Launcher):
    """The one launcher that Hydra knows: hands the jobs to the place that was chosen."""

    def __init__(self, place: str, **keys: Any) -> None:
        self.place = PLACES[place](place=place, **keys)
        self.config: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take the sweep's config; jobs are composed where they run."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, numbered from `initial_job_idx`; each returns its objective, NaN if it has none."""
        from aectl.cli.main import run_command

        return self.place.launch(Sweep(self.config, job_overrides, initial_job_idx, run_command))
