"""`aectl eval images=` applies a run's model to the user's images; `export=` writes its parts as programs."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import DictConfig

from aectl.commands import eval_user_images
from aectl.config import ConfigError, to_plain
from aectl.data.digests import mean_intensity
from aectl.evaluation.ability_checks import CHECKED_IMAGES, check_abilities
from aectl.rng import Rng
from aectl.runs import export
from aectl.runs.loading import LoadedRun, explain_missing_data, open_run

log = logging.getLogger("aectl")

EXPORTED_KEYS = ("model", "noise", "penalty", "optimizer", "schedule", "epochs", "batch_size", "seed")
"""Config keys stored in an exported file."""


def evaluate_images(config: DictConfig) -> None:
    """Write codes, reconstructions and errors of the images in `images=` into the run's images/ folder."""
    opened = open_run(config)
    images, names = eval_user_images.read_images(
        config.images, opened.shape, config.invert, opened.config.dataset.get("scale")
    )
    mean = training_intensity(opened)
    if mean is not None and eval_user_images.looks_inverted(images, mean):
        turned = str(not config.invert).lower()
        log.warning("these images seem to be negatives of the run's images: try invert=%s", turned)
    device = opened.device.torch
    check_abilities(opened.model, images[:CHECKED_IMAGES].to(device), opened.state["classes"])
    rng = Rng(config.seed, device).fork("own images")
    files = eval_user_images.write_image_results(
        opened.model, images.to(device), names, opened.run.folder / "images", rng
    )
    for path in files.values():
        log.info("%s", path)


def training_intensity(opened: LoadedRun) -> float | None:
    """Return the mean intensity of the run's training images, None if unknown; raises ChangedData.

    The record has it for published data. Other data are read to check that they have not changed.
    """
    known = opened.run.record.get("data") or {}
    is_published = "train_digest" not in known
    if is_published and "mean" in known:
        return known["mean"]
    try:
        return mean_intensity(opened.dataset.split("train"))
    except (ValueError, OSError) as error:
        log.debug("%s", explain_missing_data(error))
        return known.get("mean")


def check_export_format(format: str | None) -> None:
    """Raise ConfigError if `export` is not a known format."""
    if format and format not in export.FORMATS:
        raise ConfigError(f"export must be one of {', '.join(export.FORMATS)}, not '{format}'")


def export_parts(config: DictConfig) -> None:
    """Write the parts or weights of the run's model into its export/ folder, in the chosen format."""
    opened = open_run(config)
    paths = export.export_model(
        opened.model, opened.shape, opened.run.folder / "export", config.export, build_metadata(opened)
    )
    for path in paths:
        log.info("%s  %.2f MB", path, path.stat().st_size / 1e6)


def build_metadata(opened: LoadedRun) -> dict[str, Any]:
    """Return the metadata of an exported file: command, config, data set, epoch, versions and test metrics."""
    record, evaluated = opened.run.record, opened.run.metrics.get("test", {})
    stored = to_plain(opened.config)
    tables = {name: table for name, table in evaluated.items() if isinstance(table, dict) and "model" in table}
    return {
        "command": record.get("command"),
        "dataset": opened.dataset_name,
        "epoch": opened.state["epoch"],
        "config": {key: stored.get(key) for key in EXPORTED_KEYS},
        "versions": record.get("versions"),
        "test": {name: table["model"] for name, table in tables.items()},
    }
