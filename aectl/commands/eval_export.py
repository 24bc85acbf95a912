"""What `aectl eval` writes beside an evaluation: what a run makes of one's own images, and its parts for elsewhere."""

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
"""Parts of a run's config that go with an exported file."""


def evaluate_images(config: DictConfig) -> None:
    """Write the codes, reconstructions and errors of the images that the config names into the run's images/."""
    opened = open_run(config)
    images, names = eval_user_images.read_images(
        config.images, opened.shape, config.invert, opened.config.dataset.get("scale")
    )
    mean = training_intensity(opened)
    if mean is not None and eval_user_images.looks_inverted(images, mean):
        turned = str(not config.invert).lower()
        log.warning("these images are light where the run's are dark, or the reverse: try invert=%s", turned)
    device = opened.device.torch
    check_abilities(opened.model, images[:CHECKED_IMAGES].to(device), opened.state["classes"])
    rng = Rng(config.seed, device).fork("own images")
    files = eval_user_images.write_image_results(
        opened.model, images.to(device), names, opened.run.folder / "images", rng
    )
    for path in files.values():
        log.info("%s", path)


def training_intensity(opened: LoadedRun) -> float | None:
    """Return the mean intensity of the run's training images, None if nothing tells; raises ChangedData.

    A run's record has it, so that the images themselves are not needed; but data that can be read must be the run's.
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
    """Raise ConfigError if `export` names no format."""
    if format and format not in export.FORMATS:
        raise ConfigError(f"export must be one of {', '.join(export.FORMATS)}, not '{format}'")


def export_parts(config: DictConfig) -> None:
    """Write the run's encoder and decoder, or all its weights, into its export/, in the format asked for."""
    opened = open_run(config)
    paths = export.export_model(
        opened.model, opened.shape, opened.run.folder / "export", config.export, build_metadata(opened)
    )
    for path in paths:
        log.info("%s  %.2f MB", path, path.stat().st_size / 1e6)


def build_metadata(opened: LoadedRun) -> dict[str, Any]:
    """Return what an exported file tells of its origin: command, config, data set, epoch, versions and test numbers."""
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
