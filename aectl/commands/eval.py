"""aectl eval: how good a trained run is, beside its baselines, on images it was not trained on."""

from __future__ import annotations

import logging

from omegaconf import DictConfig
from rich.table import Table

from aectl.config import ConfigError
from aectl.config.schema import check_ranges
from aectl.evaluation.report import Report, report
from aectl.figures.report import draw
from aectl.loading import open_run
from aectl.rng import Rng
from aectl.run import Run
from aectl.terminal import console, significant
from aectl.training.validation import validate

log = logging.getLogger("aectl")


def run(config: DictConfig) -> None:
    """Evaluate the run that the config names; numbers go to its metrics.json, pictures to its figures/."""
    check_ranges(config)
    opened = open_run(config)
    held_out = opened.dataset.split(config.split, opened.device.torch)
    if not len(held_out):
        raise ConfigError(f"split={config.split} of this run's dataset is empty")
    train = opened.dataset.split("train", opened.device.torch)
    # The seed of training's own validation, so that split=valid repeats the trainer's numbers.
    rng = Rng(opened.config.seed, opened.device.torch).fork("validation").fork("noise")
    own = validate(opened.model, held_out, rng)
    tables = {"objective": {"model": own}, **report(opened.model, train, held_out, config.seed)}
    section = {"checkpoint": config.checkpoint, "epoch": opened.state["epoch"], "images": len(held_out), **tables}
    show(tables, opened.run, config.split, len(held_out), opened.state["epoch"])
    opened.run.add_metrics(**{config.split: section})
    if config.figures:
        folder = opened.run.folder / "figures"
        # A run stopped within its first epoch has no curve yet.
        curves = opened.run.folder / "metrics.csv" if opened.state["epoch"] else None
        draw(opened.model, held_out, folder, seed=config.seed, metrics_csv=curves)
        log.info("figures %s", folder)
    log.info("numbers %s", opened.run.folder / "metrics.json")


def show(tables: Report, run: Run, split: str, images: int, epoch: int) -> None:
    """Print the tables, a row for the model and for each baseline."""
    choices = run.record.get("choices", {})
    title = f"{choices.get('model')} on {choices.get('dataset')}"
    out = console()
    out.print(f"{title}, {images:,} {split} images, after epoch {epoch}")
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        table = Table(title=name, title_justify="left", box=None, pad_edge=False)
        table.add_column("", style="bold")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for label, row in rows.items():
            table.add_row(label, *[significant(row[c]) if c in row else "" for c in columns])
        out.print(table)
        out.print()
