"""Figures of codes: distribution of their values, active units, and scatter plots of the classes."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from aectl.figures import style

ACTIVE = 1e-3
"""A unit is active for an image if |h| exceeds this."""
ACTIVE_VARIANCE = 0.01
"""A latent is active if the variance of its posterior mean over images exceeds this."""
LEAST = 1e-6
"""Smallest variance that is shown."""
MAX_CLASSES = 30
"""Largest number of classes shown by colours and a legend."""


def code_histogram(codes: Tensor) -> Figure:
    """Show the histogram of all values of codes [N, code], on a logarithmic scale."""
    values = codes.detach().float().cpu().numpy().ravel()
    figure, axes = style.chart(f"Code values of {len(codes):,} images, {codes.shape[1]:,} units each")
    axes.hist(values, bins=80, weights=np.full(len(values), 1 / len(values)), color=style.BLUE, log=True)
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    idle = float((np.abs(values) <= ACTIVE).mean())
    axes.text(
        0.98, 0.95, f"{idle:.1%} within ±{ACTIVE:g}\nmean {values.mean():.3g}, std {values.std():.3g}",
        transform=axes.transAxes, ha="right", va="top", fontsize=style.SMALL, color=style.INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )  # fmt: skip
    style.name_axes(axes, "code value h", "share of all values (log scale)")
    return figure


def unit_activity(codes: Tensor) -> Figure:
    """Show the share of images for which each unit of codes [N, code] is active (|h| > 0.001), in descending order."""
    active = (codes.detach().abs() > ACTIVE).float().cpu()
    shares = active.mean(0).sort(descending=True).values.numpy()
    count = len(shares)
    title = f"Active units: {active.sum(1).mean():.1f} of {count:,} for the average image"
    figure, axes = style.chart(title)
    edges = np.arange(count + 1) + 0.5
    axes.stairs(shares, edges, fill=True, color=style.BLUE)
    axes.set_xlim(0.5, count + 0.5)
    axes.set_ylim(0, 1.02)
    axes.axhline(float(shares.mean()), color=style.ORANGE, linewidth=1.2, label=f"mean {shares.mean():.3f}")
    axes.legend(fontsize=style.SMALL, frameon=True, framealpha=0.8, edgecolor="none", loc="upper right")
    style.name_axes(axes, "units, most active first", f"share of images with |h| > {ACTIVE:g}")
    return figure


def latent_activity(means: Tensor) -> Figure:
    """Show the variance over images of each column of posterior means [N, code], in descending order.

    A latent is active if the variance exceeds 0.01 (Burda et al. 2016), as for the metric `active_latents`.
    """
    variances = means.detach().double().var(0, correction=0).sort(descending=True).values.cpu().numpy()
    count = len(variances)
    active = int((variances > ACTIVE_VARIANCE).sum())
    figure, axes = style.chart(f"Active latents: {active:,} of {count:,}, over {len(means):,} images")
    edges = np.arange(count + 1) + 0.5
    # The axis is logarithmic, and variances may be 0.
    axes.stairs(np.maximum(variances, LEAST), edges, baseline=LEAST, fill=True, color=style.BLUE)
    axes.set_xlim(0.5, count + 0.5)
    axes.set_yscale("log")
    axes.axhline(ACTIVE_VARIANCE, color=style.ORANGE, linewidth=1.2, label=f"active above {ACTIVE_VARIANCE:g}")
    axes.legend(fontsize=style.SMALL, frameon=True, framealpha=0.8, edgecolor="none", loc="upper right")
    style.name_axes(axes, "latents, most active first", "variance of the posterior mean")
    return figure


def code_scatter(codes: Tensor, labels: Tensor, title: str) -> Figure:
    """Show codes [N, code] as a scatter plot, coloured by labels [N] (-1: none).

    Two-dimensional codes are shown directly, wider ones by their first two principal components. Raises ValueError for
    one-dimensional codes.
    """
    if codes.shape[1] < 2:
        raise ValueError("a scatter plot needs codes of at least 2 numbers")
    points, names = project_to_plane(codes.detach().float().cpu())
    figure, axes = style.chart(title, 6.2, 5.2)
    scatter(axes, points.numpy(), labels.cpu().numpy())
    axes.set_aspect("equal", adjustable="datalim")
    style.name_axes(axes, *names)
    return figure


def project_to_plane(codes: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Project codes [N, code] to points [N, 2]; return them with the names of the axes."""
    if codes.shape[1] == 2:
        return codes, ("first coordinate of the code", "second coordinate of the code")
    centred = (codes - codes.mean(0)).double()
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    top = directions[:, [-1, -2]]
    # The sign of an eigenvector is arbitrary; make its largest entry positive, so that figures are reproducible.
    top = top * top.gather(0, top.abs().argmax(0, keepdim=True)).sign()
    shares = variances[[-1, -2]].clamp_min(0) / variances.sum().clamp_min(1e-300)
    names = [f"principal component {i + 1} ({float(share):.0%} of the variance)" for i, share in enumerate(shares)]
    return centred @ top, (names[0], names[1])


def scatter(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Draw points [N, 2] with a colour, a marker and a name for each class."""
    classes = sorted(set(labels[labels >= 0].tolist()))
    if not classes or len(classes) > MAX_CLASSES:
        axes.scatter(points[:, 0], points[:, 1], s=9, color=style.BLUE, alpha=0.6, linewidths=0)
        return
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for i, label in enumerate(classes):
        own = points[labels == label]
        colour, marker = style.CLASSES[i % len(style.CLASSES)], style.MARKERS[i % len(style.MARKERS)]
        axes.scatter(
            own[:, 0], own[:, 1], s=11, color=colour, marker=marker, alpha=0.75, linewidths=0, label=str(label)
        )
        x, y = np.median(own, axis=0)
        axes.text(
            x, y, str(label), fontsize=12, weight="bold", color=style.INK, path_effects=halo,
            ha="center", va="center", zorder=5,
        )  # fmt: skip
    axes.legend(
        title="class", fontsize=style.SMALL, title_fontsize=style.SMALL, markerscale=1.8, frameon=False,
        loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + (len(classes) - 1) // 15,
    )  # fmt: skip
