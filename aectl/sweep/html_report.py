"""Writes report.html of a sweep: the best setting and the best run, figures, and the table of all runs."""

from __future__ import annotations

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aectl.html_report import render
from aectl.leaderboard.significance import SIGNIFICANCE_LEVEL, p_value
from aectl.metric import Metric, describe_columns, find_metric
from aectl.runs.metrics_json import column_names
from aectl.sweep.comparable_metric import Comparison
from aectl.sweep.number_formats import P_VALUE, T_INTERVAL, format_intervals, format_number, format_p_value
from aectl.sweep.plan import read_typed_command
from aectl.sweep.results import Job, objective_name, objectives_over_seeds
from aectl.system.terminal import display_path

UNRANKED_CAPTIONS = {
    "curves": "The objective of each run over its epochs. Its values cannot be compared between these runs.",
    "parameters": "The objective against each setting. Its values cannot be compared between these runs.",
    "parallel": "The settings of each run and its objective, whose values cannot be compared between these runs.",
    "history": "The lowest objective so far, from trial to trial. Its values cannot be compared between these runs.",
}
"""Captions of the figures if the jobs cannot be ranked."""

METRICS = {
    "sweep": (
        Metric("epoch", "epoch of the best value"),
        Metric("seconds", "duration of the run", format=".1f"),
        Metric("val/*", "best value on validation images, a mean over them"),
        Metric("train/*", "best value on training images, a mean over them"),
    ),
    "seeds": (
        Metric("val/*", "mean over seeds of the best values on validation images"),
        Metric("train/*", "mean over seeds of the best values on training images"),
        Metric("seeds", "number of runs that differ only in the seed"),
        T_INTERVAL,
        P_VALUE,
    ),
}
"""Descriptions of the columns by table; the objective is called `val/…` or `train/…`."""

MAX_LISTED = 6
"""Most job numbers or values that a list shows."""


def write_report(folder: Path, jobs: Sequence[Job], varied: Sequence[str], comparison: Comparison) -> None:
    """Write the sweep's report.html, and draw its figures if at least two jobs have an objective."""
    if sum(not math.isnan(job.value) for job in jobs) > 1:
        # Imported here because importing matplotlib would delay the start of every sweep.
        from aectl.sweep.plots import draw_sweep

        draw_sweep(jobs, varied, folder / "figures", comparison.is_fair)
    is_ranked = comparison.has_comparable_means
    groups = objectives_over_seeds(jobs, varied, is_ranked=is_ranked) if "seed" in varied else []
    best = describe_best_setting(groups, objective_name(jobs)) if is_ranked else []
    best += describe_best_jobs(jobs, varied) if comparison.is_fair else []
    notice = f"{comparison.notice}." if comparison.notice else ""
    seeds_order = "best first" if is_ranked else "in the order of the jobs"
    order = seeds_order if is_ranked or not comparison.is_fair else "best first for each metric"
    section: dict[str, Any] = {
        "about": count_by_status(jobs),
        "titles": {"seeds": f"means over seeds, {seeds_order}", "sweep": f"runs, {order}"},
        "verdicts": [*best, *([{"outcome": "unclear", "text": notice}] if notice else [])],
        "seeds": {
            f"jobs {', '.join(job_numbers(jobs, group[0]))}": make_mean_row(group, groups, jobs, is_ranked)
            for group in groups
        },
        "sweep": {f"job {job.number}": {**{k: job.setting(k) for k in varied}, **make_job_row(job)} for job in jobs},
    }
    section["columns"] = {
        table: describe_columns(column_names(section[table].values()), [*describe_objectives(jobs, metrics), *metrics])
        for table, metrics in METRICS.items()
    }
    render.write_page(
        folder / "report.html",
        title=sweep_title(jobs, varied),
        name=folder.name,
        commands=[read_typed_command(folder), shlex.join(["aectl", "train", "-m", f"resume={display_path(folder)}"])],
        section=section,
        facts=collect_facts(jobs, varied),
        figures=sorted((folder / "figures").glob("*.png")),
        captions={} if comparison.is_fair else UNRANKED_CAPTIONS,
    )


def describe_objectives(jobs: Sequence[Job], metrics: Sequence[Metric]) -> list[Metric]:
    """Return the descriptions of the objectives, with their meaning where all models state the same one."""
    meanings: dict[str, set[str]] = {}
    for job in jobs:
        goal = job.record.get("goal") or {}
        # A sweep may compare its jobs by another metric than the one they minimised.
        if job.metric and goal.get("objective") == job.metric:
            meanings.setdefault(job.metric, set()).add(str(goal.get("meaning") or ""))
    found = []
    for name, (meaning, *others) in meanings.items():
        if meaning and not others:
            one = find_metric(metrics, name)
            found.append(replace(one, meaning=f"{meaning}: {one.meaning}"))
    return found


def sweep_title(jobs: Sequence[Job], varied: Sequence[str]) -> str:
    """Return the page's title: models, data and swept settings, e.g. `dae on digits: sweep of noise, seed`."""
    models, data = (", ".join(chosen_options(jobs, group)) for group in ("model", "dataset"))
    swept = f"sweep of {', '.join(varied)}" if varied else "sweep"
    return f"{' on '.join(filter(None, (models, data)))}: {swept}" if models else swept.capitalize()


def chosen_options(jobs: Sequence[Job], group: str) -> list[str]:
    """Return the distinct options of a config group that the jobs use."""
    options = [(job.record.get("choices") or {}).get(group) or job.settings.get(group) for job in sort_by_number(jobs)]
    return list(dict.fromkeys(str(option) for option in options if option))


def sort_by_number(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs in the order of their numbers."""
    return sorted(jobs, key=lambda job: job.number)


def count_by_status(jobs: Sequence[Job]) -> str:
    """Return the number of runs in total and by status, e.g. `4 runs: 3 done, 1 failed`."""
    counts = Counter(job.status for job in jobs)
    runs = "1 run" if len(jobs) == 1 else f"{len(jobs)} runs"
    return f"{runs}: {', '.join(f'{number} {status}' for status, number in sorted(counts.items()))}"


def describe_best_setting(groups: Sequence[tuple[dict[str, str], list[float]]], name: str) -> list[dict[str, str]]:
    """Return the page's statement on the setting with the best mean over seeds.

    The list is empty if there are fewer than two settings, or only one seed of each.
    """
    if len(groups) < 2 or not any(len(values) > 1 for _, values in groups):
        return []
    (settings, values), (others, rest) = groups[:2]
    p = p_value(values, rest)
    sure = "" if p is None else f", p = {p:.2g}"
    means = [
        f"{format_settings(s)} {format_number(statistics.fmean(v))}" for s, v in ((settings, values), (others, rest))
    ]
    found = "unclear" if p is None or p >= SIGNIFICANCE_LEVEL else "better"
    what = {"unclear": "not significantly better than", "better": "significantly better than"}[found]
    text = f"Best mean {name} over seeds: {means[0]}, {what} {means[1]} (Welch's test{sure})."
    return [{"outcome": found, "text": text}]


def describe_best_jobs(jobs: Sequence[Job], varied: Sequence[str]) -> list[dict[str, str]]:
    """Return the page's statements on the best run, one for each metric that was minimised."""
    first: dict[str, Job] = {}
    for job in jobs:
        if job.status != "failed" and not math.isnan(job.value):
            first.setdefault(job.metric, job)
    found = []
    for metric, job in first.items():
        words = format_settings({key: job.settings[key] for key in varied if key in job.settings})
        name = f"job {job.number} ({words})" if words else f"job {job.number}"
        found.append({"outcome": "", "text": f"Best run: {name}, {metric} {format_number(job.value)}."})
    return found


def shorten_list(values: Iterable[str]) -> str:
    """Return values joined by commas; of more than twice `MAX_LISTED` only the first ones and their number."""
    found = list(values)
    return (
        ", ".join(found)
        if len(found) <= 2 * MAX_LISTED
        else f"{', '.join(found[:MAX_LISTED])}, … ({len(found)} values)"
    )


def format_settings(settings: Mapping[str, str]) -> str:
    """Return settings as overrides, separated by spaces."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def job_numbers(jobs: Sequence[Job], settings: Mapping[str, str]) -> list[str]:
    """Return the numbers of the finished jobs with these settings, at most `MAX_LISTED`."""
    ended = [job for job in sort_by_number(jobs) if job.status != "failed" and not math.isnan(job.value)]
    found = [str(job.number) for job in ended if all(job.setting(k) == v for k, v in settings.items())]
    return found if len(found) <= MAX_LISTED else [*found[:MAX_LISTED], "…"]


def make_mean_row(
    group: tuple[dict[str, str], list[float]],
    groups: Sequence[tuple[dict[str, str], list[float]]],
    jobs: Sequence[Job],
    is_ranked: bool,
) -> dict[str, Any]:
    """Return the table row of one setting's mean over seeds, with a p-value if the means are ranked."""
    settings, values = group
    spread = format_intervals([values for _, values in groups])[groups.index(group)]
    deviation = {f"{objective_name(jobs)}_sd": statistics.stdev(values)} if len(values) > 1 else {}
    p = {P_VALUE.name: "" if values is groups[0][1] else format_p_value(groups[0][1], values)} if is_ranked else {}
    mean = {objective_name(jobs): statistics.fmean(values), **deviation, T_INTERVAL.name: spread}
    return {**settings, **mean, "seeds": len(values), **p}


def make_job_row(job: Job) -> dict[str, Any]:
    """Return the table row of a job, without its settings."""
    value = {} if math.isnan(job.value) else {job.metric: job.value, "epoch": job.objective.get("epoch", "")}
    seconds = {} if job.seconds is None else {"seconds": job.seconds}
    return {**value, **seconds, "status": job.status, **({"error": job.error} if job.status == "failed" else {})}


def collect_facts(jobs: Sequence[Job], varied: Sequence[str]) -> list[tuple[str, str]]:
    """Return the page's facts about a sweep as pairs of a name and a text."""
    ordered = sort_by_number(jobs)
    fixed = {k: v for k, v in ordered[0].settings.items() if k not in (*varied, "model", "dataset")}
    seconds = [job.seconds for job in jobs if job.seconds is not None]
    record = ordered[0].record
    pairs = [
        ("model", ", ".join(chosen_options(jobs, "model"))),
        ("data set", ", ".join(chosen_options(jobs, "dataset"))),
        ("objective, minimised", objective_name(jobs)),
        *(
            (f"swept: {key}", shorten_list(dict.fromkeys(job.settings.get(key, "–") for job in ordered)))
            for key in varied
        ),
        ("other settings typed", format_settings(fixed)),
        ("training, all runs", f"{sum(seconds):.0f} s" if seconds else ""),
        ("started", render.format_time(record.get("started"))),
        ("device", render.format_device(record)),
        ("git", render.format_git(record)),
        ("versions", render.format_versions(record)),
        ("jobs", "job 3 has the folder whose name begins with 3-; the leaderboard uses the same numbers"),
    ]
    return [(name, text) for name, text in pairs if text]
