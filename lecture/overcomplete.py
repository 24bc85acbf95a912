"""Figures of overcomplete autoencoders: copying, and what an L1 penalty and dropout change."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from aectl.evaluation.anomaly import errors
from aectl.evaluation.codes import ACTIVE, sparsity
from aectl.evaluation.context import apply
from aectl.figures import style
from aectl.rng import Rng
from lecture import panels
from lecture.lab import Drawn, Lab, Numbers

KINDS = {"overcomplete": "nothing against copying", "sparse": "L1 penalty", "dropout": "dropout before the code"}
COLOURS = {"overcomplete": style.GREY, "sparse": style.BLUE, "dropout": style.ORANGE}
OF_EACH, OF_SHUFFLED = 5, 3
"""Images shown: of digits and of clothing, and of shuffled digits."""


def shuffled(x: Tensor) -> Tensor:
    """Return images x [N, C, H, W] with their pixels in random order: the grey levels of x, nothing of its shapes."""
    rng = Rng(0)
    return torch.stack([row[rng.permutation(len(row))] for row in x.flatten(1)]).view_as(x)


def copying(lab: Lab) -> Drawn:
    """Digits, clothing and shuffled pixels through codes wider than the image that were trained on digits alone."""
    digits, clothing = lab.digits.held_out, lab.clothing.held_out
    sets = {"digits": digits.pixels(), "clothing": clothing.pixels(), "shuffled": shuffled(digits.pixels())}
    first = [source.batch(panels.one_of_each(source, 3)[:OF_EACH]).x for source in (digits, clothing)]
    shown = torch.cat([*first, sets["shuffled"][:OF_SHUFFLED]])
    rows, names, numbers = [shown], ["input"], {}
    for run, name in KINDS.items():
        model = lab.subject(run).model
        numbers |= {f"{run}_{kind}": float(errors(x, apply(model.reconstruct, x)).mean()) for kind, x in sets.items()}
        rows.append(model.reconstruct(shown))
        names.append(f"{name} ■")  # in the colour of its bars
    figure = panels.page(9.6, 2.75, "Codes of 1,024 numbers, wider than the image, trained on digits alone")
    left, right = figure.subplots(1, 2, width_ratios=(2.75, 1))
    panels.tiles(left, torch.stack(rows), "What comes back of digits, clothing and shuffled pixels", names)
    for label, colour in zip(left.get_yticklabels()[1:], COLOURS.values(), strict=True):
        label.set_color(colour)
    bars(right, numbers, tuple(sets))
    return figure, numbers


def bars(axes: Axes, numbers: Numbers, kinds: tuple[str, ...]) -> None:
    """Show the squared errors of each model on each kind of image."""
    style.dress(axes, "Mean squared error")
    for i, run in enumerate(KINDS):
        values = [numbers[f"{run}_{kind}"] for kind in kinds]
        axes.barh(np.arange(len(kinds)) + 0.27 * (i - 1), values, 0.25, color=COLOURS[run])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set(xscale="log", xlim=(1e-5, 0.5))
    style.name_axes(axes, "per pixel (log scale)", "")


def codes(lab: Lab) -> Drawn:
    """How the numbers in the three codes are spread, and how often each unit is active."""
    figure = panels.page(9.6, 5.2)
    axes = figure.subplots(2, 3, sharey="row")
    numbers: Numbers = {}
    for column, (run, name) in enumerate(KINDS.items()):
        found = lab.subject(run).codes
        counted = sparsity(found)
        numbers |= {f"{run}_{key}": value for key, value in counted.items()}
        values(axes[0, column], found, name, COLOURS[run])
        activity(axes[1, column], found, counted["active_units"], COLOURS[run])
    style.name_axes(axes[0, 0], "value of a unit", "share of all values (log scale)")
    style.name_axes(axes[1, 0], "units, most active first", "share of images it is active on")
    return figure, numbers


def values(axes: Axes, found: Tensor, name: str, colour: str) -> None:
    """Show how all numbers of codes [N, code] are spread, and how many are zero."""
    style.dress(axes, name)
    flat = found.numpy().ravel()
    top = float(np.quantile(flat, 0.9999))
    axes.hist(flat, 60, range=(0, top), weights=np.full(len(flat), 1 / len(flat)), color=colour, log=True)
    zero = f"{100 * (np.abs(flat) <= ACTIVE).mean():.0f} % are zero"
    axes.text(0.97, 0.93, zero, transform=axes.transAxes, ha="right", va="top", fontsize=style.TITLE, color=style.INK)
    style.name_axes(axes, "value of a unit", "")


def activity(axes: Axes, found: Tensor, mean: float, colour: str) -> None:
    """Show for what share of images each unit of codes [N, code] is active; `mean` units are for the average image."""
    shares = (found.abs() > ACTIVE).float().mean(0).sort(descending=True).values.numpy()
    style.dress(axes, f"{mean:.0f} of {len(shares):,} units active per image")
    axes.stairs(shares, np.arange(len(shares) + 1), fill=True, color=colour)
    axes.set(ylim=(0, 1.02), xlim=(0, len(shares)))
    style.name_axes(axes, "units, most active first", "")
