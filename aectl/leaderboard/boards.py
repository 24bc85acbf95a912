"""From evaluated runs to ranked tables: runs, their means over seeds, and each baseline once."""

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

from aectl.leaderboard.entries import Entry, differing, named, read_entries, worded
from aectl.leaderboard.significance import SURE, p_value
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

Kind = Literal["run", "mean", "baseline"]

WIDEST = 36
"""Characters of a run's name; if one is longer, all go by their numbers."""


@dataclass(frozen=True)
class Line:
    """A row of a table: a run's, a mean over seeds, with the rows that it is `of`, or a baseline's."""

    kind: Kind
    name: str
    row: Row
    of: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Table:
    """One ability: its metrics and rows, best first, and the names of the rows that are best in each metric.

    Where seeds were varied the means over them come first, they alone are the best, and `verdict` states for the
    first metric from which of the others the best mean differs. `baseline` compares the best run with its baseline.
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
    """Runs on the same images of the same data set."""

    dataset: str
    images: int
    split: str
    entries: list[Entry]

    @cached_property
    def varied(self) -> list[str]:
        """The settings in which the runs differ."""
        return differing(self.entries)

    @cached_property
    def names(self) -> dict[str, str]:
        """The runs' names by their labels."""
        names = {entry.label: f"{entry.label} {named(entry, self.varied)}".strip() for entry in self.entries}
        return names if max(map(len, names.values())) <= WIDEST else {e.label: in_words([e]) for e in self.entries}

    @property
    def noun(self) -> str:
        """What the runs are: jobs of a sweep, or runs."""
        return "job" if all(entry.noun == "job" for entry in self.entries) else "run"

    @property
    def title(self) -> str:
        """What is compared, in words."""
        runs = "1 run" if len(self.entries) == 1 else f"{len(self.entries)} runs"
        return f"{runs} on {self.dataset}, {self.images:,} {self.split} images"

    @cached_property
    def tables(self) -> list[Table]:
        """One table for each ability that any of the runs has; the objective only where they have no other."""
        known = merge_orders([list(entry.rows) for entry in self.entries])
        return [self.table(name) for name in known if name != "objective"] or [self.table(name) for name in known]

    def table(self, name: str) -> Table:
        """Return the table of one ability."""
        owners = {line.name: (line, entry) for entry in self.entries for line in self.lines_of(entry, name)}
        runs = [line for line, _ in owners.values()]
        means, others = over_seeds(self, name), baselines(self, name)
        metrics = self.metrics(name)
        shown = main_columns(column_names(line.row for line in (*runs, *others)), metrics)
        leading = next((metric for metric in shown if metric.better), None)
        # The matrix of noises keeps the order of the runs, as it keeps that of the noises.
        if leading and name != "noises":
            runs, means, others = (ranked(lines, leading, metrics) for lines in (runs, means, others))
        tops = {}
        for metric in shown:
            tops[metric.name] = best_rows({line.name: line.row for line in means or runs}, metric.name, metrics)
        titles = [(entry.section.get("titles") or {}).get(name) for entry in self.entries]
        title = next((title for title in titles if title), name)
        verdict = told_by_seeds(means, leading, metrics) if leading else ""
        baseline = against_baseline(name, runs[0].name, owners[runs[0].name][1]) if runs else ""
        is_mixed = len({conditions_of(line.row, metrics) for line in runs}) > 1
        return Table(name, title, shown, [*means, *runs, *others], tops, is_mixed, verdict, baseline)

    def metrics(self, table: str) -> tuple[Metric, ...]:
        """Return the descriptions of a table's columns, each as the first run that has the column describes it."""
        found = {one.name: one for entry in reversed(self.entries) for one in entry.metrics.get(table, ())}
        return tuple(found.values())

    def lines_of(self, entry: Entry, table: str) -> list[Line]:
        """Return a run's rows in a table; those beside the first are named after it: `2 vae, likelihood`."""
        name = self.names[entry.label]
        if table == "noises":
            others = [key for key in self.varied if key.partition(".")[0] != "noise"]
            name = " ".join(filter(None, (entry.label, entry.noise(), named(entry, others))))
        if note := origin_note(entry.section, table):
            name += " (stale)" if note.startswith("stale") else f" ({note})"
        rows = rows_of(entry, table).items()
        return [Line("run", name + row.removeprefix(MODEL), content) for row, content in rows if is_model_row(row)]


def keep_section(run: Run, section: dict[str, Any]) -> dict[str, Any]:
    """Return a section of metrics.json as it is."""
    return section


def boards(
    folders: Iterable[Path],
    split: str = "test",
    complete: Callable[[Run, dict[str, Any]], dict[str, Any]] = keep_section,
) -> list[Board]:
    """Return the leaderboards of evaluated runs, one for each data set and number of images that they were measured on.

    Own images of one kind of data set are told apart by their digests. `complete` may add to a run's section of
    metrics.json what an earlier version did not write. Raises ConfigError if there is no evaluation on the split.
    """
    groups: dict[tuple[str, int, str], list[Entry]] = {}
    for entry in read_entries(folders, split, complete):
        groups.setdefault((entry.dataset, entry.section.get("images") or 0, entry.data), []).append(entry)
    kinds = Counter((dataset, images) for dataset, images, _ in groups)
    return [
        Board(f"{dataset} ({data or 'unknown'})" if kinds[dataset, images] > 1 else dataset, images, split, entries)
        for (dataset, images, data), entries in groups.items()
    ]


def rows_of(entry: Entry, table: str) -> Rows:
    """Return a run's rows in a table; none if it has no such table.

    How well a run undoes its own noise cannot be compared with another noise: those rows say which it is.
    """
    told = {"noise": entry.noise()} if table == "denoising" else {}
    return {name: {**told, **row} for name, row in entry.rows.get(table, {}).items()}


def main_columns(names: Sequence[str], metrics: Iterable[Metric]) -> list[Metric]:
    """Return the columns that runs are compared by: all but details, or all if there is nothing else."""
    metrics = tuple(metrics)
    found = [find_metric(metrics, name) for name in names]
    return [metric for metric in found if not metric.detail] or found


def ranked(lines: Iterable[Line], metric: Metric, metrics: Iterable[Metric]) -> list[Line]:
    """Return lines with the best first, those measured alike together, those without the number last."""
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
    """Return all names, each before those that follow it in the sequences, as far as these agree.

    A name that is new in a sequence comes before the next name of it that is known already.
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


def over_seeds(board: Board, table: str) -> list[Line]:
    """Return the means, with standard deviations, of runs that differ in the seed alone; of two of a seed the later."""
    if "seed" not in board.varied:
        return []
    others = [key for key in board.varied if key != "seed"]
    groups: dict[tuple[str, ...], dict[str, Entry]] = {}
    for entry in board.entries:
        groups.setdefault(tuple(entry.setting(key) for key in others), {})[entry.setting("seed")] = entry
    lines = []
    for group in (list(seeds.values()) for seeds in groups.values() if len(seeds) > 1):
        name = f"mean of {len(group)} seeds: {named(group[0], others)}".removesuffix(": ")
        if len(name) > WIDEST:
            name = f"mean of {in_words(group)}"
        tables = [rows_of(entry, table) for entry in group]
        for row in dict.fromkeys(row for rows in tables for row in rows if is_model_row(row)):
            of = tuple(rows.get(row, {}) for rows in tables)
            mean = mean_of(of)
            lines += [Line("mean", name + row.removeprefix(MODEL), mean, of)] if mean else []
    return lines


def told_by_seeds(means: Sequence[Line], metric: Metric, metrics: Sequence[Metric]) -> str:
    """Return from which means, best first, the best one differs in a metric, as far as their seeds can tell."""
    name = metric.name
    alike = [line for line in means if is_number(line.row.get(name))]
    alike = [line for line in alike if conditions_of(line.row, metrics) == conditions_of(alike[0].row, metrics)]
    if len(alike) < 2:
        return ""
    first, *others = alike
    open_questions = []
    for line in others:
        p = p_value([row[name] for row in first.of], [row[name] for row in line.of])
        if p is None or p >= SURE:
            open_questions.append(line.name if p is None else f"{line.name} (p = {p:.2g})")
    best_one = f"By {name}, {first.name} is"
    if not open_questions:
        return f"{best_one} significantly better than the others (Welch's test over seeds, p < {SURE})."
    return f"{best_one} not significantly better (Welch's test over seeds) than {', '.join(open_questions)}."


def against_baseline(table: str, name: str, entry: Entry) -> str:
    """Return a run's verdict in a table, the empty text if its evaluation has none there."""
    found = [one["text"] for one in entry.section.get("verdicts") or () if one["table"] == table]
    return f"{name}: {found[0]}" if found else ""


def mean_of(rows: Sequence[Row]) -> Row:
    """Return the mean of each number that all rows have as `x`, and its standard deviation as `x_sd`."""
    mean: dict[str, Any] = {}
    for column in column_names(rows):
        values: list[Any] = [row.get(column) for row in rows]
        if all(is_number(value) and math.isfinite(value) for value in values):
            mean |= {column: statistics.fmean(values), f"{column}_sd": statistics.stdev(values)}
        elif len(set(values)) == 1:
            mean[column] = values[0]
    return mean


def baselines(board: Board, table: str) -> list[Line]:
    """Return each baseline once; one that is not the same for all runs has a row for each that it comes in."""
    found: dict[str, dict[str, tuple[Row, list[Entry]]]] = {}
    for entry in board.entries:
        for name, row in rows_of(entry, table).items():
            if not is_model_row(name):
                variants = found.setdefault(name, {})
                variants.setdefault(rounded(row), (row, []))[1].append(entry)
    lines = []
    for name, variants in found.items():
        parts = [owners for _, owners in variants.values()]
        for row, owners in variants.values():
            whose = "" if len(parts) == 1 else f", {told_apart(board, owners, parts)}"
            lines.append(Line("baseline", name + whose, row))
    return lines


def rounded(row: Row) -> str:
    """Return a row as text in which rounding errors do not show."""
    return json.dumps({k: f"{v:.5g}" if is_number(v) else v for k, v in row.items() if not is_spread(k)})


def told_apart(board: Board, owners: Sequence[Entry], parts: Sequence[Sequence[Entry]]) -> str:
    """Return the setting by which some runs differ from all others, else their labels."""
    for key in board.varied:
        groups = [{entry.setting(key) for entry in part} for part in parts]
        if all(len(values) == 1 for values in groups) and len(set().union(*groups)) == len(parts):
            return worded(owners[0], key)
    return in_words(owners)


def in_words(entries: Sequence[Entry]) -> str:
    """Return runs by their labels: `job 3`, `runs 1, 2`."""
    noun = "job" if all(entry.noun == "job" for entry in entries) else "run"
    return f"{noun}{'s' * (len(entries) != 1)} {', '.join(entry.label for entry in entries)}"
