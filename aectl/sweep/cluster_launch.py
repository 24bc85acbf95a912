"""aectl train -m sweep=slurm and sweep=ray: from settings to a queue on other machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from aectl.sweep import launch
from aectl.sweep.cluster import Cluster, Queue, Ray, Slurm


def on_slurm(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    jobs: int | None,
    fail_fast: bool,
    cluster: str | None,
    minutes: int,
    partition: str | None,
    cpus: int,
    gpus: int,
    memory_gb: int,
    settings: Mapping[str, Any],
) -> list[JobReturn]:
    """Run a sweep's jobs as an array of SLURM's."""
    limits = {"slurm_partition": partition, "slurm_array_parallelism": jobs}
    wanted = {
        "name": "aectl",
        "timeout_min": minutes,
        "cpus_per_task": cpus,
        "gpus_per_node": gpus,
        "mem_gb": memory_gb,
        **{key: value for key, value in limits.items() if value is not None},
        **settings,
    }
    return on(config, job_overrides, first, lambda folder: Slurm(folder, cluster, wanted), cpus, fail_fast)


def on_ray(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    *,
    jobs: int | None,
    fail_fast: bool,
    address: str | None,
    cpus: int,
    gpus: float,
) -> list[JobReturn]:
    """Run a sweep's jobs on a Ray cluster, as many at a time as it has room for."""
    resources = {"num_cpus": cpus, "num_gpus": gpus}
    return on(config, job_overrides, first, lambda folder: Ray(address, resources), cpus, fail_fast)


def on(
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    queue: Callable[[Path], Queue],
    threads: int,
    fail_fast: bool,
) -> list[JobReturn]:
    """Run a sweep's jobs in a queue, each with so many threads."""
    where = partial(Cluster, queue(launch.folder_of(config)), fail_fast=fail_fast)
    return launch.run(config, job_overrides, first, where, threads)
