"""Figures of what lies off the data: the field on the plane, and images of another kind."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor

from aectl.data.toy import curve
from aectl.evaluation.anomaly import errors, measure_detection
from aectl.evaluation.context import apply
from aectl.figures import planar_fields, style
from aectl.models.base import Reconstructs
from lecture import panels, runs
from lecture.lab import Drawn, Lab, Numbers

GRID = 120
"""Points along each side of the square at which the error is measured."""
REACH = 0.15
"""How far off the curve points are looked at, in units of the square's side."""
BINS = 12
NEAR, FAR = 0.03, 0.1
"""Distances, in the same units: beyond the first a point is off the data, at the second its error is quoted."""
DETECTORS = {"deep-32": "undercomplete, code 32", "dae-gaussian": "DAE, σ = 1", "overcomplete": "overcomplete"}
"""Runs whose errors are to tell clothing from digits."""
Scores = tuple[Tensor, Tensor]
"""Of digits [N] and of clothing [M], higher for what looks stranger."""


def manifold(lab: Lab) -> Drawn:
    """What a denoising autoencoder adds to each point of the plane, and how its error grows off the data."""
    figure = panels.page(9.6, 6.1, "A denoising autoencoder on the plane: g(f(x)) - x leads to the data")
    numbers: Numbers = {}
    for kind, row in zip(runs.TOYS, figure.subplots(len(runs.TOYS), 3), strict=True):
        subject = lab.subject(f"toy-{kind}")
        arrows = planar_fields.draw_arrows(row[0], subject.model, subject.bench.held_out)
        planar_fields.format_panel(row[0], "g(f(x)) - x, arrows cut to one cell")
        bar(figure, row[0], arrows)
        shades = planar_fields.draw_errors(row[1], subject.model, subject.bench.held_out)
        planar_fields.format_panel(row[1], "its length: the reconstruction error")
        bar(figure, row[1], shades)
        found = off_the_curve(row[2], subject.model, kind)
        numbers |= {f"{kind}_{key}": value for key, value in found.items()}
    return figure, numbers


def bar(figure: Figure, axes: Axes, drawn: ScalarMappable) -> None:
    """Add a slim colour bar to a panel."""
    slim = figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.02, aspect=25)
    slim.ax.tick_params(labelsize=style.SMALL - 1, color=style.GREY)
    slim.outline.set_visible(False)


def off_the_curve(axes: Axes, model: Reconstructs, kind: str) -> Numbers:
    """Draw the error over the distance from the curve; return it near and far, and how often the step leads nearer."""
    steps = (torch.arange(GRID) + 0.5) / GRID
    line = curve(kind, torch.linspace(0, 0.9999, 2000))
    points = torch.cartesian_prod(steps, steps)
    distance = torch.cdist(points, line).amin(1)
    points, distance = points[distance < REACH], distance[distance < REACH]
    moved = apply(model.reconstruct, points.view(-1, 1, 1, 2)).flatten(1)
    error = (moved - points).norm(dim=1)
    bins = (distance / REACH * BINS).long().clamp(max=BINS - 1)
    means = [float(error[bins == b].mean()) for b in range(BINS)]
    low, high = ([float(error[bins == b].quantile(q)) for b in range(BINS)] for q in (0.1, 0.9))
    places = (np.arange(BINS) + 0.5) * REACH / BINS
    style.dress(axes, "error over the distance", style.LABEL + 1)
    axes.fill_between(places, low, high, color=style.BLUE, alpha=0.2, linewidth=0, label="10th to 90th percentile")
    axes.plot(places, means, "o-", color=style.BLUE, markersize=4, label="mean of ‖g(f(x)) - x‖")
    axes.plot(places, places, color=style.GREY, linestyle=":", label="the distance itself")
    axes.set(xlim=(0, REACH), ylim=(0, None), xticks=(0, REACH / 3, 2 * REACH / 3, REACH), box_aspect=1)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    style.name_axes(axes, "distance to the curve", "error")
    nearer = torch.cdist(moved, line).amin(1) < distance
    return {
        "on": means[0],
        "off": means[int(FAR / REACH * BINS)],
        "nearer": float(nearer[distance > NEAR].float().mean()),
    }


def other_images(lab: Lab) -> Drawn:
    """Clothing under models of digits: what comes back, how large the errors are, and the ROC curves."""
    known, other = lab.digits.held_out, lab.clothing.held_out
    figure = panels.page(9.6, 5.3)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.75))
    shown = torch.cat([source.batch(panels.one_of_each(source, 5)[:8]).x for source in (known, other)])
    rows = torch.stack([shown, lab.subject("deep-32").model.reconstruct(shown)])
    title = "An autoencoder that knows only digits (code 32): digits come back, clothing does not"
    panels.tiles(top.subplots(), rows, title, ("input", "output"))
    left, right = bottom.subplots(1, 2, width_ratios=(1.5, 1))
    found = scores(lab)
    main = found[next(iter(DETECTORS))][1]
    histogram(left, *main)
    numbers = curves(right, found)
    return figure, numbers | {"digits": float(main[0].mean()), "clothing": float(main[1].mean())}


def scores(lab: Lab) -> dict[str, tuple[str, Scores]]:
    """Return, by a key, the label and the scores of each detector: errors of runs and of PCA, the mean intensity."""
    x, y = lab.digits.held_out.pixels(), lab.clothing.held_out.pixels()
    pca = lab.digits.pca
    found: dict[str, tuple[str, Scores]] = {}
    for run, label in DETECTORS.items():
        subject = lab.subject(run)
        found[run] = label, (errors(x, subject.reconstructed), errors(y, apply(subject.model.reconstruct, y)))
    found["pca"] = "PCA-32", (errors(x, pca.reconstruct(x, 32)), errors(y, pca.reconstruct(y, 32)))
    found["intensity"] = "mean intensity alone", (x.flatten(1).mean(1), y.flatten(1).mean(1))
    return found


def histogram(axes: Axes, known: Tensor, other: Tensor) -> None:
    """Show how the errors of two kinds of images are spread."""
    style.dress(axes, "Reconstruction error, code 32")
    edges = np.geomspace(float(torch.cat([known, other]).min()), float(torch.cat([known, other]).max()), 80)
    for values, name, colour in ((known, "MNIST", style.BLUE), (other, "Fashion-MNIST", style.ORANGE)):
        share = np.full(len(values), 100 / len(values))
        axes.hist(values.numpy(), edges, weights=share, color=colour, alpha=0.6, label=name)
    axes.set_xscale("log")
    axes.legend(fontsize=style.LABEL, frameon=False)
    style.name_axes(axes, "squared error per pixel (log scale)", "share of test images, %")


def curves(axes: Axes, found: dict[str, tuple[str, Scores]]) -> Numbers:
    """Draw the ROC curve of each detector; return the areas under them."""
    style.dress(axes, "Told apart by the error: ROC")
    green, purple = style.CLASSES[3], style.CLASSES[8]
    looks = ((style.ORANGE, "-"), (style.BLUE, "-"), (green, "--"), (purple, "-."), (style.GREY, ":"))
    areas: Numbers = {}
    for (key, (label, (known, other))), (colour, line) in zip(found.items(), looks, strict=True):
        area = areas[f"auroc_{key.replace('-', '_')}"] = float(measure_detection(known, other)["auroc"])
        truth = np.r_[np.zeros(len(known)), np.ones(len(other))]
        false, true, _ = roc_curve(truth, torch.cat([known, other]).numpy())
        axes.plot(false, true, line, color=colour, linewidth=1.6, label=f"{area:.4f}  {label}")
    axes.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1.01))
    axes.legend(fontsize=7.5, frameon=False, title="area under the curve", title_fontsize=8, loc="lower right")
    style.name_axes(axes, "share of digits taken for clothing (log scale)", "share of clothing found")
    return areas
