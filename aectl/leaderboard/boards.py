"""Build ranked tables of evaluated runs, means over seeds, and baselines."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from aectl.leaderboard.entries import Entry, describe_setting, describe_settings, find_differing_settings, read_entries
from aectl.leaderboard.significance import SIGNIFICANCE_LEVEL, p_value
from aectl.metric import Metric, find_metric
from aectl.runs.metrics_json import (
    MODEL,
    Row,
    Rows,
    best_rows,
    column_names,
    conditions_of,
    is_model_row,
    is_number,
    is_spread,
    origin_note,
)
from aectl.runs.run import Run
from aectl.runs.settings import group_over_seeds

Kind = Literal["run", "mean", "baseline"]

MAX_NAME_LENGTH = 36
"""Characters of a run's name; if one is longer, all runs are named by their labels only."""


@dataclass(frozen=True)
class Line:
    """A row of a table with its name: of a run, of a baseline, or the mean over seeds of the rows `of`."""

    kind: Kind
    name: str
    row: Row
    of: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Table:
    """The table of one ability, with lines from best to worst, and the names of the `best` lines of each column.

    If runs differ in their seeds, means over seeds come first, only means are marked as best, and `verdict` states
    whether the best mean is significantly better than the others. `baseline` compares the best run with its baseline.
    """

    name: str
    title: str
    columns: list[Metric]
    lines: list[Line]
    best: dict[str, set[str]]
    is_mixed: bool = False
    """Whether runs were measured in ways that cannot be compared."""
    verdict: str = ""
    baseline: str = ""

    def is_best(self, line: Line, column: str) -> bool:
        """Return whether a run, or a mean over seeds, is the best of its kind in a column."""
        return line.kind != "baseline" and line.name in self.best[column]


@dataclass(frozen=True)
class Board:
    """A leaderboard of runs that were evaluated on the same images."""

    dataset: str
    images: int
    split: str
    entries: list[Entry]

    @cached_property
    def varied(self) -> list[str]:
        """The keys of the settings in which the runs differ."""
        return find_differing_settings(self.entries)

    @cached_property
    def names(self) -> dict[str, str]:
        """The names of the runs by label."""
        names = {one.label: f"{one.label} {describe_settings(one, self.varied)}".strip() for one in self.entries}
        if max(map(len, names.values())) <= MAX_NAME_LENGTH:
            return names
        return {one.label: format_labels([one]) for one in self.entries}

    @property
    def noun(self) -> str:
        """`job` if all runs are jobs of sweeps, else `run`."""
        return "job" if all(entry.noun == "job" for entry in self.entries) else "run"

    @property
    def title(self) -> str:
        """The number of runs, the data set and the images."""
        runs = "1 run" if len(self.entries) == 1 else f"{len(self.entries)} runs"
        return f"{runs} on {self.dataset}, {self.images:,} {self.split} images"

    @cached_property
    def tables(self) -> list[Table]:
        """The tables of all abilities that a run has; the objective only if there is no other."""
        known = merge_orders([list(entry.rows) for entry in self.entries])
        return [self.table(name) for name in known if name != "objective"] or [self.table(name) for name in known]

    def table(self, name: str) -> Table:
        """Return the table of one ability."""
        owners = {line.name: (line, entry) for entry in self.entries for line in self.make_lines(entry, name)}
        runs = [line for line, _ in owners.values()]
        means, others = average_over_seeds(self, name), collect_baselines(self, name)
        metrics = self.metrics(name)
        shown = main_columns(column_names(line.row for line in (*runs, *others)), metrics)
        leading = next((metric for metric in shown if metric.better), None)
        # The matrix of training noises and test noises keeps the order of the runs.
        if leading and name != "noises":
            runs, means, others = (rank_lines(lines, leading, metrics) for lines in (runs, means, others))
        tops = {}
        for metric in shown:
            tops[metric.name] = best_rows({line.name: line.row for line in means or runs}, metric.name, metrics)
        titles = [(entry.section.get("titles") or {}).get(name) for entry in self.entries]
        title = next((title for title in titles if title), name)
        verdict = compare_means(means, leading, metrics) if leading else ""
        baseline = find_verdict(name, runs[0].name, owners[runs[0].name][1]) if runs else ""
        is_mixed = len({conditions_of(line.row, metrics) for line in runs}) > 1
        return Table(name, title, shown, [*means, *runs, *others], tops, is_mixed, verdict, baseline)

    def metrics(self, table: str) -> tuple[Metric, ...]:
        """Return the descriptions of a table's columns, each from the first run that has it."""
        found = {one.name: one for entry in reversed(self.entries) for one in entry.metrics.get(table, ())}
        return tuple(found.values())

    def make_lines(self, entry: Entry, table: str) -> list[Line]:
        """Return the lines of a run in a table; further rows are named after the first, e.g. `2 vae, likelihood`."""
        name = self.names[entry.label]
        if table == "noises":
            others = [key for key in self.varied if key.partition(".")[0] != "noise"]
            name = " ".join(filter(None, (entry.label, entry.noise(), describe_settings(entry, others))))
        if note := origin_note(entry.section, table):
            name += " (stale)" if note.startswith("stale") else f" ({note})"
        rows = get_rows(entry, table).items()
        return [Line("run", name + row.removeprefix(MODEL), content) for row, content in rows if is_model_row(row)]


def keep_section(run: Run, section: dict[str, Any]) -> dict[str, Any]:
    """Return a section of metrics.json as it is."""
    return section


def build_boards(
    folders: Iterable[Path],
    split: str = "test",
    complete: Callable[[Run, dict[str, Any]], dict[str, Any]] = keep_section,
) -> list[Board]:
    """Return a leaderboard for each data set and number of images on which the runs were evaluated.

    The user's own images are distinguished by their digests. `complete` may add to a run's section of metrics.json what
    an earlier version did not write. Raises ConfigError if a run has no evaluation on the split.
    """
    groups: dict[tuple[str, int, str], list[Entry]] = {}
    for entry in read_entries(folders, split, complete):
        groups.setdefault((entry.dataset, entry.section.get("images") or 0, entry.data), []).append(entry)
    kinds = Counter((dataset, images) for dataset, images, _ in groups)
    return [
        Board(f"{dataset} ({data or 'unknown'})" if kinds[dataset, images] > 1 else dataset, images, split, entries)
        for (dataset, images, data), entries in groups.items()
    ]


def get_rows(entry: Entry, table: str) -> Rows:
    """Return the rows of a run in a table, or none.

    Rows of the `denoising` table get the training noise, since runs with different noises cannot be compared.
    """
    noise = {"noise": entry.noise()} if table == "denoising" else {}
    return {name: {**noise, **row} for name, row in entry.rows.get(table, {}).items()}


def main_columns(names: Sequence[str], metrics: Iterable[Metric]) -> list[Metric]:
    """Return the columns that are not details, or all if there are only details."""
    metrics = tuple(metrics)
    found = [find_metric(metrics, name) for name in names]
    return [metric for metric in found if not metric.detail] or found


def rank_lines(lines: Iterable[Line], metric: Metric, metrics: Iterable[Metric]) -> list[Line]:
    """Return lines from best to worst, grouped by how they were measured; lines without the metric come last."""
    lines, metrics = list(lines), tuple(metrics)
    sign = 1 if metric.better == "lower" else -1
    groups = list(dict.fromkeys(conditions_of(line.row, metrics) for line in lines))

    def rank(line: Line) -> tuple[bool, int, float]:
        value = line.row.get(metric.name)
        group = groups.index(conditions_of(line.row, metrics))
        if not is_number(value) or math.isnan(value):
            return True, group, 0.0
        return False, group, sign * value

    return sorted(lines, key=rank)


def merge_orders(orders: Iterable[Sequence[str]]) -> list[str]:
    """Merge sequences of names and keep their order where they agree.

    A name that earlier sequences lack is inserted before the next known name of its sequence.
    """
    merged: list[str] = []
    for order in orders:
        place = len(merged)
        for name in reversed(order):
            if name in merged:
                place = merged.index(name)
            else:
                merged.insert(place, name)
    return merged


def average_over_seeds(board: Board, table: str) -> list[Line]:
    """Return means and standard deviations of runs that differ only in the seed; the last run of each seed counts."""
    if "seed" not in board.varied:
        return []
    others = [key for key in board.varied if key != "seed"]
    lines = []
    for runs in group_over_seeds(board.entries, board.varied):
        group = list({entry.setting("seed"): entry for entry in runs}.values())
        if len(group) < 2:
            continue
        name = f"mean of {len(group)} seeds: {describe_settings(group[0], others)}".removesuffix(": ")
        if len(name) > MAX_NAME_LENGTH:
            name = f"mean of {format_labels(group)}"
        tables = [get_rows(entry, table) for entry in group]
        for row in dict.fromkeys(row for rows in tables for row in rows if is_model_row(row)):
            of = tuple(rows.get(row, {}) for rows in tables)
            mean = compute_mean(of)
            lines += [Line("mean", name + row.removeprefix(MODEL), mean, of)] if mean else []
    return lines


def compare_means(means: Sequence[Line], metric: Metric, metrics: Sequence[Metric]) -> str:
    """Return a sentence on whether the first of `means` is significantly better than the others in a metric."""
    name = metric.name
    alike = [line for line in means if is_number(line.row.get(name))]
    alike = [line for line in alike if conditions_of(line.row, metrics) == conditions_of(alike[0].row, metrics)]
    if len(alike) < 2:
        return ""
    first, *others = alike
    open_questions = []
    for line in others:
        p = p_value([row[name] for row in first.of], [row[name] for row in line.of])
        if p is None or p >= SIGNIFICANCE_LEVEL:
            open_questions.append(line.name if p is None else f"{line.name} (p = {p:.2g})")
    best_one = f"By {name}, {first.name} is"
    if not open_questions:
        return f"{best_one} significantly better than the others (Welch's test over seeds, p < {SIGNIFICANCE_LEVEL})."
    return f"{best_one} not significantly better (Welch's test over seeds) than {', '.join(open_questions)}."


def find_verdict(table: str, name: str, entry: Entry) -> str:
    """Return the verdict of a run in a table, an empty string if there is none."""
    found = [one["text"] for one in entry.section.get("verdicts") or () if one["table"] == table]
    return f"{name}: {found[0]}" if found else ""


def compute_mean(rows: Sequence[Row]) -> Row:
    """Return the mean of each number `x` that all rows have, and its standard deviation as `x_sd`."""
    mean: dict[str, Any] = {}
    for column in column_names(rows):
        values: list[Any] = [row.get(column) for row in rows]
        if all(is_number(value) and math.isfinite(value) for value in values):
            mean |= {column: statistics.fmean(values), f"{column}_sd": statistics.stdev(values)}
        elif len(set(values)) == 1:
            mean[column] = values[0]
    return mean


def collect_baselines(board: Board, table: str) -> list[Line]:
    """Return a line for each baseline, or one for each of its values if they differ between runs."""
    found: dict[str, dict[str, tuple[Row, list[Entry]]]] = {}
    for entry in board.entries:
        for name, row in get_rows(entry, table).items():
            if not is_model_row(name):
                variants = found.setdefault(name, {})
                variants.setdefault(format_rounded(row), (row, []))[1].append(entry)
    lines = []
    for name, variants in found.items():
        parts = [owners for _, owners in variants.values()]
        for row, owners in variants.values():
            whose = "" if len(parts) == 1 else f", {distinguish(board, owners, parts)}"
            lines.append(Line("baseline", name + whose, row))
    return lines


def format_rounded(row: Row) -> str:
    """Return a row as a string with rounded numbers; rows that differ only by rounding errors are equal."""
    return json.dumps({k: f"{v:.5g}" if is_number(v) else v for k, v in row.items() if not is_spread(k)})


def distinguish(board: Board, owners: Sequence[Entry], parts: Sequence[Sequence[Entry]]) -> str:
    """Return the setting that distinguishes the runs `owners` from the other `parts`, or else their labels."""
    for key in board.varied:
        groups = [{entry.setting(key) for entry in part} for part in parts]
        if all(len(values) == 1 for values in groups) and len(set().union(*groups)) == len(parts):
            return describe_setting(owners[0], key)
    return format_labels(owners)


def format_labels(entries: Sequence[Entry]) -> str:
    """Return the labels of runs with their noun, e.g. `job 3` or `runs 1, 2`."""
    noun = "job" if all(entry.noun == "job" for entry in entries) else "run"
    return f"{noun}{'s' * (len(entries) != 1)} {', '.join(entry.label for entry in entries)}"
