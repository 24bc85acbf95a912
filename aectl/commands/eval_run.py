"""Evaluate one run and print its tables, or several runs in a leaderboard."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from aectl import leaderboard
from aectl.commands.eval_columns import OBJECTIVE, PUBLISHED, add_descriptions, describe_tables
from aectl.commands.eval_confirmation import confirm_evaluations
from aectl.commands.eval_data import QUICK_LIMITS, build_benchmark
from aectl.commands.eval_outputs import page_name, write_outputs
from aectl.commands.eval_progress import table_progress
from aectl.commands.eval_provenance import (
    build_origin,
    mark_stale,
    open_densities,
    outdated_tables,
    section_name,
    stored_section,
    weights_digest,
)
from aectl.config import ConfigError, to_plain
from aectl.config.did_you_mean import suggest_nearest
from aectl.config.quoting import escape_interpolation
from aectl.config.schema import list_names
from aectl.densities import DENSITIES, count_components
from aectl.evaluation import references as published
from aectl.evaluation import verdict
from aectl.evaluation.ability_checks import CHECKED_IMAGES, check_abilities
from aectl.evaluation.context import Rows, Subject
from aectl.evaluation.registry import EVALUATIONS, HEADLINES, SETTINGS, Report, lacking, report
from aectl.metric import Metric, find_metric
from aectl.models.base import Model
from aectl.rng import Rng
from aectl.runs.loading import LoadedRun, check_run_data, open_run, trusted_modules
from aectl.runs.metrics_json import (
    COLUMNS,
    column_names,
    format_column,
    is_number,
    metrics_of_table,
    origin_note,
    pca_legend,
    tables_of,
)
from aectl.runs.run import Run, now
from aectl.system.terminal import display_path, make_console, wrap_text
from aectl.system.terminal_table import Column, print_table
from aectl.training.validation import validate

log = logging.getLogger("aectl")

LEADERBOARDS = Path("outputs", "leaderboards")
LIKELIHOOD_PART = ", likelihood from at most "
"""Start of the last part of the note on a quick evaluation; printed only with the likelihood table."""


class NotApplicable(ConfigError):
    """None of the chosen tables applies to the model."""


def evaluate_and_print(config: DictConfig, folder: Path) -> None:
    """Print the tables of a run; evaluate it first unless metrics.json has all of them."""
    chosen, run = chosen_tables(config), Run(folder)
    section = find_stored_section(run, config, chosen)
    if section:
        log.info("evaluated %s; again=true evaluates it again\n", section["when"][:16].replace("T", " ") + " UTC")
    else:
        section = evaluate(config, folder)
    print_section(section, run, chosen)


def compare_runs(config: DictConfig, folders: list[Path]) -> None:
    """Show several runs in one leaderboard; evaluate those that lack tables first."""
    chosen = chosen_tables(config)
    trained = [folder for folder in folders if Run(folder).checkpoint_path(config.checkpoint).is_file()]
    for folder in folders:
        if folder not in trained:
            log.warning("%s is left out: it has no checkpoint '%s'", display_path(folder), config.checkpoint)
    folders = trained
    pending = [folder for folder in folders if not find_stored_section(Run(folder), config, chosen)]
    confirm_evaluations(pending, folders, tables=chosen, yes=config.yes, quick=config.quick)
    for number, folder in enumerate(pending, 1):
        log.info("evaluating %s (%d of %d)", display_path(folder), number, len(pending))
        try:
            evaluate(config, folder)
        except NotApplicable as error:
            if len(folders) == 1:
                raise
            log.warning("%s is left out: %s", display_path(folder), error)
            folders = [other for other in folders if other != folder]
    if not folders:
        raise ConfigError("none of these runs has been trained")
    boards = leaderboard.build_boards(folders, section_name(config), add_descriptions)
    leaderboard.show(boards)
    place = find_common_sweep(folders) or LEADERBOARDS / now().replace(":", "-")
    for path in leaderboard.write(place, boards):
        log.info("%s", display_path(path))


def find_common_sweep(folders: list[Path]) -> Path | None:
    """Return the folder of the sweep if all runs belong to one, else None."""
    parents = {folder.absolute().parent for folder in folders}
    parent = parents.pop()
    return parent if not parents and (parent / "multirun.yaml").is_file() else None


def find_stored_section(run: Run, config: DictConfig, chosen: Sequence[str]) -> dict[str, Any]:
    """Return the stored section if its tables are complete and up to date, else an empty one.

    Raises ChangedData if the data have changed. Data that cannot be read are not checked.
    """
    section = {} if config.again or config.data == "changed" else stored_section(run, config)
    if not section or (config.figures and not (run.folder / page_name(config)).is_file()):
        return {}
    asked = chosen or ([*section["made"]] if section.get("complete") else [])
    if asked and not chosen and config.sampler:
        asked = [*dict.fromkeys([*asked, *(name for name, keys in SETTINGS.items() if "sampler" in keys)])]
    if not asked or outdated_tables(section, run, config, asked):
        return {}
    check_run_data(run, trusted_modules(config))
    return section


def evaluate(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Evaluate one run and return its section of metrics.json; only missing and outdated tables are computed.

    Tables outside `only` are kept, and marked stale if the weights have changed. Figures and page are always redrawn.
    Raises ConfigError if no table in `only` applies to the model.
    """
    one = cast("DictConfig", OmegaConf.merge(config, {"run": escape_interpolation(str(folder))}))
    opened = open_run(one)
    run, chosen = opened.run, chosen_tables(one)
    is_anew = one.again or one.data == "changed"
    stored = {} if is_anew and not chosen else stored_section(run, one)
    asked = applicable_tables(opened.model, chosen, one.sampler)
    wanted = asked if is_anew else outdated_tables(stored, run, one, asked)
    bench = build_benchmark(opened, one, with_outliers="anomalies" in wanted)
    check_abilities(opened.model, bench.held_out.first(CHECKED_IMAGES).x, opened.state["classes"])
    if stored.get("images") != len(bench.held_out):
        stored, wanted = {}, asked
    draws = {key: min(one[key], QUICK_LIMITS[key]) if one.quick else one[key] for key in ("nll_images", "nll_samples")}
    for name in one.sampler:
        count_components(name, one.components, len(bench.train))
    if one.components is not None and not any(DENSITIES[name].has_components for name in one.sampler):
        log.warning("components has no effect without sampler=mixture")
    subject = Subject(
        opened.model,
        bench,
        **draws,
        sampler=tuple(one.sampler),
        components=one.components,
        densities=open_densities(run, one),
    )
    with table_progress([*wanted, *(["figures"] if one.figures else [])]) as progress:
        new = compute_tables(opened, subject, one, wanted, progress)
        # Read again, because another process may have added a table.
        stored = stored_section(run, one) if stored else {}
        if stored and not chosen:
            # Without its sampler, a table may not apply any more.
            stored["made"] = {name: origin for name, origin in stored["made"].items() if name in asked}
        section = merge_section(stored, new, opened, one, complete=not chosen)
        run.add_metrics(**{section_name(one): section})
        if one.figures:
            progress("figures")
            write_outputs(opened, subject, section, one, wanted)
    return section


def applicable_tables(model: Model, chosen: Sequence[str], sampler: Sequence[str] = ()) -> list[str]:
    """Return the tables that apply to a model, `objective` first; only those in `chosen` if it is not empty.

    Logs a warning for each chosen table that does not apply, with the ability that the model lacks, and a line if only
    a `sampler` is missing. Raises NotApplicable if none applies.
    """
    lacks = {one.name: lacking(model, one.name, sampler) for one in EVALUATIONS}
    with_sampler = [one.name for one in EVALUATIONS if one.can_take_sampler(model)]
    if sampler and not with_sampler:
        log.warning("sampler has no effect: the model does not both encode and decode")
    elif not chosen and (without := [name for name in with_sampler if lacks[name]]):
        log.info("no %s: the model has no prior; sampler=mixture samples from its codes", ", ".join(without))
    unfit = [f"{name}: the model {lacks[name]}" for name in chosen if lacks[name]]
    if unfit and len(unfit) == len(chosen):
        raise NotApplicable(f"only={','.join(chosen)} does not apply to this run; {'; '.join(unfit)}")
    for why in unfit:
        log.warning("no table of %s", why)
    return [OBJECTIVE, *[name for name, lack in lacks.items() if not lack and (not chosen or name in chosen)]]


def compute_tables(
    opened: LoadedRun, subject: Subject, config: DictConfig, wanted: Sequence[str], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Compute the tables `wanted`; return them with titles, origins, and the reasons for missing ones."""
    tables: dict[str, Rows] = {}
    seconds = {}
    if OBJECTIVE in wanted:
        progress(OBJECTIVE)
        start = perf_counter()
        # The random numbers of validation in training, so that split=valid repeats the trainer's metrics.
        rng = Rng(opened.config.seed, opened.device.torch).fork("validation").fork("noise")
        tables[OBJECTIVE] = {"model": {**validate(opened.model, subject.bench.held_out, rng)}}
        seconds[OBJECTIVE] = perf_counter() - start
    others = [name for name in wanted if name != OBJECTIVE]
    found = report(subject, others, progress) if others else Report()
    weights = weights_digest(opened.run, config.checkpoint)
    own = f"the model's own loss and metrics, on {config.split} images"
    titles = {OBJECTIVE: own, **{one.name: one.title for one in EVALUATIONS}}
    tables |= found.tables
    return {
        "images": len(subject.bench.held_out),
        "tables": tables,
        "titles": {name: titles[name] + (" (quick look)" if config.quick else "") for name in tables},
        "missing": found.missing,
        "made": {
            name: build_origin(name, opened.run, config, weights, opened.state["epoch"], took)
            for name, took in {**seconds, **found.seconds}.items()
        },
    }


def merge_section(
    stored: Mapping[str, Any], new: Mapping[str, Any], opened: LoadedRun, config: DictConfig, complete: bool
) -> dict[str, Any]:
    """Return the section of metrics.json with the new tables and the stored tables that were not replaced."""
    made = {**stored.get("made", {}), **new["made"]}
    made.pop(PUBLISHED, None)
    old = {name: rows for name, rows in tables_of(stored).items() if name in made and name not in new["made"]}
    tables = {**old, **new["tables"]}
    order = [OBJECTIVE, *[one.name for one in EVALUATIONS]]
    head = {
        "split": config.split,
        "checkpoint": config.checkpoint,
        "epoch": opened.state["epoch"],
        "images": new["images"],
        "seed": config.seed,
        "threads": opened.device.threads,
        "when": now(),
        **({"data": "changed"} if opened.may_change else {}),
        **({"quick": describe_quick_scale(opened, config, new["images"], tables)} if config.quick else {}),
        # Whether all tables that apply to the model exist.
        "complete": complete or bool(stored.get("complete")),
    }
    missing = {**stored.get("missing", {}), **new["missing"]}
    section = {
        **head,
        "titles": {name: {**stored.get("titles", {}), **new["titles"]}[name] for name in order if name in tables},
        **{name: tables[name] for name in order if name in tables},
        "missing": {name: why for name, why in missing.items() if name in made and name not in tables},
        "made": {name: made[name] for name in order if name in made},
    }
    section = mark_stale(section, opened.run, opened.state["epoch"])
    present = {name: rows for name, rows in tables.items() if not section["made"][name].get("stale")}
    section["verdicts"] = verdict.verdicts(present, HEADLINES)
    references = to_plain(opened.config.get("reference") or {})
    published.check(references)
    if references:
        section[PUBLISHED] = published.compare(present, references)
        section["titles"][PUBLISHED] = "compared with published numbers"
    section[COLUMNS] = describe_tables(tables_of(section), type(opened.model))
    return section


def describe_quick_scale(opened: LoadedRun, config: DictConfig, images: int, tables: Collection[str]) -> str:
    """Return a note on the subsets of images and samples that a quick evaluation uses for its tables."""
    whole, train = (len(opened.dataset.split(name)) for name in (config.split, "train"))
    parts = [f"{images:,} of {whole:,} {config.split} images"]
    if {*tables} - {OBJECTIVE}:
        parts.append(f"baselines from {min(train, QUICK_LIMITS['train']):,} of {train:,} training images")
    text = f"quick look: {', '.join(parts)}"
    if "likelihood" in tables:
        text += f"{LIKELIHOOD_PART}{QUICK_LIMITS['nll_images']} images and {QUICK_LIMITS['nll_samples']} draws"
    return text


def chosen_tables(config: DictConfig) -> list[str]:
    """Return the tables in `only`, empty for all; raises ConfigError for an unknown table."""
    names = [one.name for one in EVALUATIONS]
    chosen = list_names(config.only)
    for name in chosen:
        if name not in names:
            raise ConfigError(
                f"only: no table called '{name}'" + suggest_nearest(name, names, f"choose from {', '.join(names)}")
            )
    return chosen


def print_section(section: dict[str, Any], run: Run, chosen: Sequence[str] = ()) -> None:
    """Print the tables, the reasons for missing ones, and the paths of the results; `chosen` limits the tables."""
    choices = run.record.get("choices", {})
    out = make_console()
    of_others = " of data that may have changed" if section.get("data") == "changed" else ""
    images = f"{section['images']:,} {section['split']} images{of_others}"
    out.print(f"{choices.get('model')} on {choices.get('dataset')}, {images}, after epoch {section['epoch']}\n")
    if section.get("quick"):
        has_likelihood = "likelihood" in section["titles"] and (not chosen or "likelihood" in chosen)
        quick = section["quick"] if has_likelihood else section["quick"].partition(LIKELIHOOD_PART)[0]
        out.print(f"{wrap_text(out, quick)}\n", soft_wrap=True)
    for name, title in section["titles"].items():
        if chosen and name not in (*chosen, PUBLISHED):
            continue
        print_rows(out, title, section[name], metrics_of_table(section, name))
        if note := origin_note(section, name):
            out.print(wrap_text(out, note), soft_wrap=True)
        out.print()
    printed = {n: rows for n, rows in tables_of(section).items() if not chosen or n in chosen}
    if legend := pca_legend(printed | {"codes": section.get("codes") or {}}):
        out.print(f"{wrap_text(out, legend)}\n", soft_wrap=True)
    missing = [f"no table of {n}: {why}" for n, why in section["missing"].items() if not chosen or n in chosen]
    if missing:
        out.print("\n".join(missing) + "\n")
    verdicts = [one for one in section.get("verdicts") or [] if not chosen or one["table"] in chosen]
    if verdicts:
        texts = [wrap_text(out, one["text"]) for one in verdicts]
        out.print("\n".join(texts), style="bold", soft_wrap=True)
    if stale := [name for name in section["titles"] if origin_note(section, name).startswith("stale")]:
        out.print(
            f"stale, of earlier weights: {', '.join(stale)}; "
            f"aectl eval run={shlex.quote(display_path(run.folder))} computes them again"
        )
    page = "report_quick.html" if section.get("quick") else "report.html"
    for what, path in (("numbers", "metrics.json"), ("figures", "figures"), ("page   ", page)):
        if (run.folder / path).exists():
            log.info("%s %s", what, display_path(run.folder / path))


def print_rows(out: Console, title: str, rows: Rows, metrics: Sequence[Metric]) -> None:
    """Print a table of metrics.json; headings have the better direction, and numbers their spread."""
    columns = []
    for name in column_names(rows.values()):
        metric = find_metric(metrics, name)
        cells = [" ".join(cell).strip() for cell in format_column(rows.values(), metric)]
        numbers = any(is_number(row.get(name)) for row in rows.values())
        columns.append(Column(metric.heading, cells, is_text=not numbers))
    print_table(out, Column("", list(rows), bold=range(len(rows))), columns, title)
