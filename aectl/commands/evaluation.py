"""One run evaluated and shown, or several in a leaderboard."""

from __future__ import annotations

import logging
import textwrap
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from aectl import leaderboard
from aectl.commands.benchmark import benchmark, fingerprint
from aectl.commands.pictures import draw_all
from aectl.config import ConfigError, to_plain
from aectl.config.did_you_mean import hint
from aectl.evaluation import published, verdict
from aectl.evaluation.report import EVALUATIONS, HEADLINES, report
from aectl.evaluation.subject import Rows, Subject
from aectl.loading import Opened, open_run
from aectl.measures import arrow, column, damage, is_number
from aectl.measures import columns as measures_of
from aectl.rng import Rng
from aectl.run import Run, now
from aectl.terminal import console, shown
from aectl.terminal_table import Column, print_table
from aectl.training.validation import validate

log = logging.getLogger("aectl")

LEADERBOARDS = Path("outputs", "leaderboards")


def single(config: DictConfig, folder: Path) -> None:
    """Evaluate one run and print its tables."""
    show(evaluate(config, folder), Run(folder))


def compare(config: DictConfig, folders: list[Path]) -> None:
    """Evaluate the runs that were not evaluated so before, and show all in one leaderboard, a row for each."""
    chosen_tables(config)
    trained = [folder for folder in folders if Run(folder).checkpoint(config.checkpoint).is_file()]
    for folder in folders:
        if folder not in trained:
            log.warning("%s is left out: it has no checkpoint '%s'", shown(folder), config.checkpoint)
    folders = trained
    for number, folder in enumerate(folders, 1):
        known = Run(folder).metrics.get(config.split, {})
        if damage(known) or config.again or known.get("fingerprint") != fingerprint(Run(folder), config):
            log.info("evaluating %s (%d of %d)", shown(folder), number, len(folders))
            evaluate(config, folder)
    if not folders:
        raise ConfigError("none of these runs has been trained")
    boards = leaderboard.boards(folders, config.split)
    leaderboard.show(boards)
    place = common_folder(folders) or LEADERBOARDS / now().replace(":", "-")
    for path in leaderboard.write(place, boards):
        log.info("%s", shown(path))


def common_folder(folders: list[Path]) -> Path | None:
    """Return the sweep's folder that all the runs are in; None for runs from several places."""
    parents = {folder.absolute().parent for folder in folders}
    parent = parents.pop()
    return parent if not parents and (parent / "multirun.yaml").is_file() else None


def evaluate(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Evaluate one run and return its section of metrics.json; its pictures and its page are made anew."""
    one = cast("DictConfig", OmegaConf.merge(config, {"run": str(folder)}))
    opened = open_run(one)
    subject = Subject(opened.model, benchmark(opened, one), one.nll_images, one.nll_samples)
    section = measured(opened, subject, one)
    opened.run.add_metrics(**{one.split: section})
    if one.figures:
        draw_all(opened, subject, section, one)
    return section


def measured(opened: Opened, subject: Subject, config: DictConfig) -> dict[str, Any]:
    """Return what metrics.json keeps of an evaluation: how it was made, its tables, and what is missing and why."""
    # The seed of training's own validation, so that split=valid repeats the trainer's numbers.
    rng = Rng(opened.config.seed, opened.device.torch).fork("validation").fork("noise")
    own: dict[str, Rows] = {"objective": {"model": {**validate(opened.model, subject.bench.held_out, rng)}}}
    with console().status("evaluating") as status:
        found = report(subject, chosen_tables(config), lambda title: status.update(f"evaluating: {title}"))
    titles = {one.name: one.title for one in EVALUATIONS if one.name in found.tables}
    references = to_plain(opened.config.get("reference") or {})
    published.check(references)
    if references:
        found.tables["published"] = published.compare({**own, **found.tables}, references)
        titles["published"] = "beside published numbers"
    return {
        "split": config.split,
        "checkpoint": config.checkpoint,
        "epoch": opened.state["epoch"],
        "images": len(subject.bench.held_out),
        "seed": config.seed,
        "when": now(),
        "fingerprint": fingerprint(opened.run, config),
        "titles": {"objective": f"the model's own loss and metrics, on {config.split} images", **titles},
        **own,
        **found.tables,
        "missing": found.missing,
        "verdicts": verdict.verdicts(found.tables, HEADLINES),
    }


def chosen_tables(config: DictConfig) -> list[str]:
    """Return the names of the tables to make, none meaning all; raises ConfigError for one that there is not."""
    names = [one.name for one in EVALUATIONS]
    chosen = str(config.only).split(",") if isinstance(config.only, str) else list(config.only or [])
    for name in chosen:
        if name not in names:
            raise ConfigError(f"only: no table called '{name}'" + hint(name, names, f"choose from {', '.join(names)}"))
    return chosen


def show(section: dict[str, Any], run: Run) -> None:
    """Print the tables, a row for the model and for each baseline, why others are missing, and where all of it is."""
    choices = run.record.get("choices", {})
    out = console()
    images = f"{section['images']:,} {section['split']} images"
    out.print(f"{choices.get('model')} on {choices.get('dataset')}, {images}, after epoch {section['epoch']}\n")
    for name, title in section["titles"].items():
        print_rows(out, name, title, section[name])
        out.print()
    for name, why in section["missing"].items():
        out.print(f"no table of {name}: {why}", soft_wrap=True)
    if verdicts := section.get("verdicts"):
        texts = [textwrap.fill(one["text"], max(out.width, 20), subsequent_indent="  ") for one in verdicts]
        out.print("\n" + "\n".join(texts), style="bold", soft_wrap=True)
    for what, path in (("numbers", "metrics.json"), ("figures", "figures"), ("page   ", "report.html")):
        if (run.folder / path).exists():
            log.info("%s %s", what, shown(run.folder / path))


def print_rows(out: Console, name: str, title: str, rows: Rows) -> None:
    """Print a table of metrics.json, each measure with its better direction, each number with its spread."""
    columns = []
    for measure in measures_of(rows.values()):
        cells = [" ".join(cell).strip() for cell in column(rows.values(), measure)]
        numbers = any(is_number(row.get(measure)) for row in rows.values())
        columns.append(Column(f"{measure} {arrow(name, measure)}".strip(), cells, is_text=not numbers))
    print_table(out, Column("", list(rows), bold=range(len(rows))), columns, title)
