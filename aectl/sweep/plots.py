"""Pictures of a sweep: curves over one another, the objective against what was swept, parallel coordinates; of a search
how the best value fell, and which settings it hangs on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aectl.sweep.results import Job, read_epochs
from aectl.system.plot_style import default_style

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 10
"""Curves that a legend can tell apart."""
LOGARITHMIC = 10
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


@default_style()
def draw(jobs: Sequence[Job], varied: Sequence[str], folder: Path, is_ranked: bool = True) -> None:
    """Write curves.png, parameters.png and, where two settings were swept, parallel.png; of one metric's jobs alone.

    The first job is drawn as the best one if `is_ranked`.
    """
    import matplotlib

    matplotlib.use("Agg")
    metric = next(job.metric for job in jobs if not math.isnan(job.value))
    done = [job for job in jobs if job.metric == metric and not math.isnan(job.value)]
    swept = [key for key in varied if len({job.settings.get(key) for job in done}) > 1]
    # Seeds are no setting to choose, unless there is nothing else.
    swept = [key for key in swept if key != "seed"] or swept
    folder.mkdir(parents=True, exist_ok=True)
    save(curves(done, swept, metric), folder / "curves.png")
    if swept:
        save(against(done, swept, metric), folder / "parameters.png")
    if len(swept) > 1:
        save(parallel(done, swept, metric, is_ranked), folder / "parallel.png")


def curves(jobs: Sequence[Job], swept: Sequence[str], metric: str) -> Figure:
    """Return the metric over the epochs, the first job's curve the darkest."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(10, 4.6))
    for job, colour in reversed(list(zip(jobs, shades(len(jobs)), strict=True))):
        points = [(int(row["epoch"]), float(row[metric])) for row in read_epochs(job.folder) if row.get(metric)]
        label = f"job {job.number}  " + " ".join(
            f"{key.rpartition('.')[2]}={job.settings.get(key, '')}" for key in swept
        )
        axes.plot([epoch for epoch, _ in points], [value for _, value in points], color=colour, label=label)
    axes.set(xlabel="epoch", ylabel=metric, title=f"{metric} of each run")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(jobs) <= FEW:
        axes.legend(reverse=True, frameon=False, fontsize=8)
    return figure


def against(jobs: Sequence[Job], swept: Sequence[str], metric: str) -> Figure:
    """Return the metric against each setting."""
    from matplotlib import pyplot

    columns = min(len(swept), 3)
    lines = math.ceil(len(swept) / columns)
    figure, panels = pyplot.subplots(lines, columns, figsize=(4 * columns, 3.4 * lines), squeeze=False, sharey=True)
    for axes, key in zip(panels.flat, swept, strict=False):
        places, ticks = placed([job.settings.get(key, "") for job in jobs])
        axes.scatter(places, [job.value for job in jobs], c=shades(len(jobs)), edgecolors="0.4", linewidths=0.5)
        axes.set_xlabel(key)
        scale(axes, places, ticks)
    for axes in panels.flat[len(swept) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel(metric)
    figure.suptitle("The objective against what was swept")
    return figure


def parallel(jobs: Sequence[Job], swept: Sequence[str], metric: str, is_ranked: bool = True) -> Figure:
    """Return a line for each job through its settings, to its objective; the first is the darkest, and bold if best."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(2 + 1.6 * (len(swept) + 1), 5))
    heights = [unit([job.settings.get(key, "") for job in jobs]) for key in swept]
    heights.append(unit([str(job.value) for job in jobs]))
    for index, colour in reversed(list(enumerate(shades(len(jobs))))):
        axes.plot(
            [height[index] for height, _ in heights], color=colour, linewidth=2 if is_ranked and index == 0 else 1
        )
    for place, (_, ticks) in enumerate(heights):
        axes.axvline(place, color="0.8", zorder=0)
        for height, text in ticks:
            axes.annotate(text, (place, height), (4, 0), textcoords="offset points", fontsize=8, va="center")
    axes.set_xticks(range(len(heights)), [*(key.rpartition(".")[2] for key in swept), metric])
    axes.set(yticks=[], xlim=(-0.2, len(heights) - 0.4), title="Settings and objective of each run")
    axes.spines[:].set_visible(False)
    return figure


def placed(texts: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return where values stand on an axis: numbers where they are, others in a row, whose names come second."""
    try:
        return [float(text) for text in texts], []
    except ValueError:
        names = sorted(set(texts))
        return [float(names.index(text)) for text in texts], names


def scale(axes: Axes, places: Sequence[float], ticks: Sequence[str]) -> None:
    """Give an axis the names of its values, or a logarithmic scale where they span decades."""
    if ticks:
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
    elif is_wide(places):
        axes.set_xscale("log")


def unit(texts: Sequence[str]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights in [0, 1] of values, and at which heights the least and the greatest, or all names, stand."""
    places, names = placed(texts)
    numbers = [math.log(place) for place in places] if is_wide(places) and not names else places
    low, high = min(numbers), max(numbers)
    heights = [(number - low) / (high - low) if high > low else 0.5 for number in numbers]
    if names:
        return heights, sorted({(height, text) for height, text in zip(heights, texts, strict=True)})
    ends = {heights.index(min(heights)), heights.index(max(heights))}
    return heights, [(heights[index], f"{places[index]:.4g}") for index in ends]


def is_wide(places: Sequence[float]) -> bool:
    """Return whether positive values span so much that a logarithmic axis shows them better."""
    return min(places) > 0 and max(places) / min(places) >= LOGARITHMIC


def shades(count: int) -> Any:
    """Return colours from the darkest to the lightest."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * index / max(1, count - 1)) for index in range(count)]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, and forget it."""
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


@default_style()
def draw_study(study: optuna.Study, folder: Path) -> None:
    """Write history.png and, of two or more finished trials and settings, importances.png."""
    import matplotlib

    matplotlib.use("Agg")
    import optuna
    from optuna.visualization import matplotlib as drawings

    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    pictures: dict[str, Any] = {
        "history": drawings.plot_optimization_history,
        "importances": drawings.plot_param_importances,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        if len(done) < 2 or (name == "importances" and len({trial.value for trial in done}) < 2):
            continue
        # Optuna calls its pictures experimental, and leaves its style to all that are drawn later.
        with warnings.catch_warnings(), matplotlib.rc_context():
            warnings.simplefilter("ignore")
            axes = picture(study)
            axes.figure.set_size_inches(8, 5)
            save(axes.figure, folder / f"{name}.png")
