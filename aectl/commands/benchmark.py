"""From an opened run to what it is measured on: its images, others to tell apart from them, judge and cache."""

from __future__ import annotations

import hashlib
import json
import logging

from omegaconf import DictConfig

from aectl.config import ConfigError, build
from aectl.data.datasets import Source
from aectl.data.sources import DataError
from aectl.evaluation.cache import VERSION, Cache, folder_for
from aectl.evaluation.judge import judge_of
from aectl.evaluation.subject import Benchmark, digest
from aectl.loading import Opened, settled
from aectl.run import Run, versions

log = logging.getLogger("aectl")

COUNTERPARTS = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}
"""Data sets of one format: of each the other's images are outliers."""
DECIDING = ("split", "seed", "nll_images", "nll_samples", "outliers", "only")
"""Keys of the command that decide what its numbers are."""


def benchmark(opened: Opened, config: DictConfig) -> Benchmark:
    """Return what the run is measured on; raises ConfigError if the split is empty."""
    device, dataset = opened.device.torch, opened.dataset
    held_out = dataset.split(config.split, device)
    if not len(held_out):
        raise ConfigError(f"split={config.split} of this run's dataset is empty")
    train = dataset.split("train", device)
    return Benchmark(
        train,
        held_out,
        other_images(opened, config),
        judge_of(dataset.name, device),
        Cache(folder_for(digest(train, held_out))),
        config.seed,
        dataset.exclude,
    )


def other_images(opened: Opened, config: DictConfig) -> dict[str, Source]:
    """Return the test images of the data set that `outliers` names, `auto` being the run's counterpart, if any.

    Raises ConfigError if that data set is unknown or its images are of another shape; one that cannot be had although
    nobody asked for it is only warned about.
    """
    name = COUNTERPARTS.get(opened.dataset.name, "none") if config.outliers == "auto" else config.outliers
    if name in (None, "none"):
        return {}
    if name not in COUNTERPARTS:
        raise ConfigError(f"outliers must be auto, none, {' or '.join(COUNTERPARTS)}, not '{name}'")
    root = opened.config.dataset.get("root")
    other = build(settled({"_target_": f"aectl.data.datasets.{name}", "root": root}), "outliers")
    if tuple(other.shape) != tuple(opened.dataset.shape):
        raise ConfigError(f"outliers={name}: its images are {other.shape}, the run's {tuple(opened.dataset.shape)}")
    try:
        return {name: other.split("test", opened.device.torch)}
    except DataError as error:
        if config.outliers != "auto":
            raise
        log.warning("no outliers: %s", str(error).splitlines()[0])
        return {}


def fingerprint(run: Run, config: DictConfig) -> str:
    """Return a name for everything that decides an evaluation's numbers: weights, command, version of aectl."""
    found = hashlib.sha256(run.checkpoint(config.checkpoint).read_bytes())
    settings = {key: str(config[key]) for key in DECIDING}
    found.update(json.dumps([settings, versions(), VERSION], sort_keys=True).encode())
    return found.hexdigest()[:16]
