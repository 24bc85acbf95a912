"""Draws the figures of a sweep: learning curves, the objective against each swept setting, and parallel coordinates.

A search also gets the history of the lowest objective and the importance of each setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aectl.figures import style
from aectl.runs.settings import find_differing_keys
from aectl.sweep.results import Job, read_epochs

if TYPE_CHECKING:
    import optuna

MAX_LEGEND = 10
"""Most curves for which a figure has a legend."""
LOG_SCALE_RATIO = 10
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


@style.default_style()
def draw_sweep(jobs: Sequence[Job], varied: Sequence[str], folder: Path, is_ranked: bool = True) -> None:
    """Write curves.png, parameters.png and, if two settings were swept, parallel.png, of the jobs of one metric.

    The first job is drawn as the best one if `is_ranked`.
    """
    metric = next(job.metric for job in jobs if not math.isnan(job.value))
    done = [job for job in jobs if job.metric == metric and not math.isnan(job.value)]
    swept = find_differing_keys(done, varied)
    # Seeds are not a setting to choose, unless nothing else was swept.
    swept = [key for key in swept if key != "seed"] or swept
    style.save(plot_curves(done, swept, metric), folder / "curves.png")
    if swept:
        style.save(plot_settings(done, swept, metric), folder / "parameters.png")
    if len(swept) > 1:
        style.save(plot_parallel(done, swept, metric, is_ranked), folder / "parallel.png")


def plot_curves(jobs: Sequence[Job], swept: Sequence[str], metric: str) -> Figure:
    """Plot the metric over the epochs; the first job has the darkest curve."""
    figure, axes = style.chart(f"{metric} of each run", 10, 4.6)
    for job, colour in reversed(list(zip(jobs, shades(len(jobs)), strict=True))):
        points = [(int(row["epoch"]), float(row[metric])) for row in read_epochs(job.folder) if row.get(metric)]
        label = f"job {job.number}  " + " ".join(f"{key.rpartition('.')[2]}={job.setting(key)}" for key in swept)
        axes.plot([epoch for epoch, _ in points], [value for _, value in points], color=colour, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.name_axes(axes, "epoch", metric)
    if len(jobs) <= MAX_LEGEND:
        axes.legend(reverse=True, frameon=False, fontsize=style.SMALL)
    return figure


def plot_settings(jobs: Sequence[Job], swept: Sequence[str], metric: str) -> Figure:
    """Plot the metric against each setting, one panel each."""
    columns = min(len(swept), 3)
    lines = math.ceil(len(swept) / columns)
    figure = Figure(figsize=(4 * columns, 3.4 * lines), dpi=style.DPI, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for index, (axes, key) in enumerate(zip(panels.flat, swept, strict=False)):
        positions, names = axis_positions([job.setting(key) for job in jobs])
        style.dress(axes, "")
        axes.scatter(positions, [job.value for job in jobs], c=shades(len(jobs)), edgecolors=style.GREY, linewidths=0.5)
        style.name_axes(axes, key, "" if index % columns else metric)
        scale_axis(axes, positions, names)
    for axes in panels.flat[len(swept) :]:
        axes.set_visible(False)
    figure.suptitle("The objective against what was swept", fontsize=style.TITLE, color=style.INK)
    return figure


def plot_parallel(jobs: Sequence[Job], swept: Sequence[str], metric: str, is_ranked: bool = True) -> Figure:
    """Plot parallel coordinates: one line per job through its settings to its objective.

    The first job has the darkest line, which is bold if `is_ranked`.
    """
    figure, axes = style.chart("Settings and objective of each run", 2 + 1.6 * (len(swept) + 1), 5)
    axes.grid(visible=False)
    heights = [unit_heights([job.setting(key) for job in jobs]) for key in swept]
    heights.append(unit_heights([str(job.value) for job in jobs]))
    for index, colour in reversed(list(enumerate(shades(len(jobs))))):
        axes.plot(
            [height[index] for height, _ in heights], color=colour, linewidth=2 if is_ranked and index == 0 else 1
        )
    for position, (_, ticks) in enumerate(heights):
        axes.axvline(position, color=style.FAINT, zorder=0)
        for height, text in ticks:
            offset: dict[str, Any] = {
                "textcoords": "offset points",
                "fontsize": style.SMALL,
                "color": style.INK,
                "va": "center",
            }
            axes.annotate(text, (position, height), (4, 0), **offset)
    axes.set_xticks(range(len(heights)), [*(key.rpartition(".")[2] for key in swept), metric])
    axes.set(yticks=[], xlim=(-0.2, len(heights) - 0.4))
    axes.spines[:].set_visible(False)
    return figure


def axis_positions(texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return the positions of values on an axis and the tick labels.

    Numbers are their own positions and have no labels. If any value is not a number, the sorted values are the labels
    at 0, 1, …
    """
    try:
        return [float(text) for text in texts], []
    except ValueError:
        names = sorted(set(texts))
        return [float(names.index(text)) for text in texts], names


def scale_axis(axes: Axes, positions: Sequence[float], names: Sequence[str]) -> None:
    """Label the ticks of a categorical axis; make a numeric one logarithmic if its values span decades."""
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif spans_decades(positions):
        axes.set_xscale("log")


def unit_heights(texts: Sequence[str]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the heights of values in [0, 1] and the ticks as pairs of height and label.

    Every category has a tick; of numbers, only the smallest and the largest have one.
    """
    positions, names = axis_positions(texts)
    numbers = [math.log(position) for position in positions] if spans_decades(positions) and not names else positions
    low, high = min(numbers), max(numbers)
    heights = [(number - low) / (high - low) if high > low else 0.5 for number in numbers]
    if names:
        return heights, sorted({(height, text) for height, text in zip(heights, texts, strict=True)})
    ends = {heights.index(min(heights)), heights.index(max(heights))}
    return heights, [(heights[index], f"{positions[index]:.4g}") for index in ends]


def spans_decades(positions: Sequence[float]) -> bool:
    """Return whether all values are positive and the largest is at least `LOG_SCALE_RATIO` times the smallest."""
    return min(positions) > 0 and max(positions) / min(positions) >= LOG_SCALE_RATIO


def shades(count: int) -> list[Any]:
    """Return colours from the darkest to the lightest."""
    return [colormaps["viridis"](0.9 * index / max(1, count - 1)) for index in range(count)]


@style.default_style()
def draw_study(study: optuna.Study, folder: Path) -> None:
    """Write history.png and importances.png if two trials are complete; importances.png needs two objective values."""
    import optuna

    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(done) < 2:
        return
    values = {trial.number: float(trial.values[0]) for trial in done}
    style.save(plot_history(values), folder / "history.png")
    if len(set(values.values())) > 1:
        # A fixed seed makes the figure reproducible.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
        style.save(plot_importances(importances), folder / "importances.png")


def plot_history(values: Mapping[int, float]) -> Figure:
    """Plot the objective of each trial over its number, and the lowest so far."""
    figure, axes = style.chart("Objective of each trial", 8, 5)
    axes.scatter(list(values), list(values.values()), color=style.BLUE, s=20, label="trial")
    lowest = list(accumulate(values.values(), min))
    axes.step(list(values), lowest, where="post", color=style.ORANGE, label="lowest so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style.name_axes(axes, "trial", "objective")
    axes.legend(frameon=False, fontsize=style.SMALL)
    return figure


def plot_importances(importances: Mapping[str, float]) -> Figure:
    """Plot a bar for each setting's share of the objective's variance, the largest on top."""
    figure, axes = style.chart("Importance of each setting", 8, 5)
    bars = axes.barh(list(importances)[::-1], list(importances.values())[::-1], color=style.BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=style.SMALL, color=style.INK)
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    style.name_axes(axes, "share of the objective's variance (fANOVA)", "")
    return figure
