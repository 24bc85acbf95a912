"""Figures of anomaly detection: reconstruction errors of inliers and outliers, and the ROC curve."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from aectl.figures import style

BINS = 80


def anomaly_figure(inliers: Tensor, outliers: Tensor, name: str) -> Figure:
    """Show the reconstruction errors of inliers [N] and outliers [M], which are called `name`, and their ROC curve.

    Errors are mean squared errors per pixel, on a logarithmic axis if all are positive.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    known, other = (scores.double().cpu().numpy() for scores in (inliers, outliers))
    truth = np.r_[np.zeros(len(known)), np.ones(len(other))]
    scores = np.r_[known, other]
    figure = Figure(figsize=(8.6, 3.6), dpi=style.DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    style.dress(left, "Reconstruction errors of both kinds")
    is_positive = bool((scores > 0).all())
    low, high = scores.min(), max(scores.max(), scores.min() + 1e-12)
    edges = np.geomspace(low, high, BINS) if is_positive else np.linspace(low, high, BINS)
    for values, label, colour in ((known, "the run's own kind", style.BLUE), (other, name, style.ORANGE)):
        share = np.full(len(values), 100 / len(values))
        left.hist(values, edges, weights=share, color=colour, alpha=0.6, label=f"{label} ({len(values):,})")
    left.set_xscale("log" if is_positive else "linear")
    left.legend(fontsize=style.SMALL, frameon=False)
    style.name_axes(left, "squared error per pixel", "share of images, %")
    false, true, _ = roc_curve(truth, scores)
    style.dress(right, f"ROC, area {roc_auc_score(truth, scores):.4f}")
    right.plot(false, true, color=style.BLUE, linewidth=1.8)
    right.plot((0, 1), (0, 1), color=style.GREY, linewidth=0.9, linestyle=":")
    right.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    style.name_axes(right, "share of own images taken for others", f"share of {name} found")
    return figure
