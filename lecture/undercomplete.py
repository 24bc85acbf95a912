"""Figures of undercomplete autoencoders: reconstructions, planar codes, errors over the code's size, a single unit."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter
from torch import Tensor

from aectl.evaluation import probes
from aectl.evaluation.context import Benchmark
from aectl.evaluation.pca import PCA
from aectl.figures import style
from lecture import panels, runs
from lecture.lab import Drawn, Lab, Numbers, squared_error

LARGEST = 300
"""Components up to which PCA's errors are shown."""
ALONG = 24
"""Images along a code of one number."""


def reconstructions(lab: Lab) -> Drawn:
    """Digits and articles of clothing, and what comes back through 2, 8 and 32 numbers."""
    figure = panels.page(9.6, 2.2)
    numbers: Numbers = {}
    kinds = (("MNIST", "deep", lab.digits), ("Fashion-MNIST", "fashion", lab.clothing))
    for axes, (title, prefix, bench) in zip(figure.subplots(1, 2), kinds, strict=True):
        x = bench.held_out.batch(panels.one_of_each(bench.held_out, 3)).x
        rows, names = [x], ["input"]
        for code in runs.FASHION_CODES:
            subject = lab.subject(f"{prefix}-{code}")
            error = numbers[f"{prefix}_{code}"] = squared_error(subject)
            rows.append(subject.model.reconstruct(x))
            names.append(f"code {code}\nMSE {error:.4f}")
        sizes = ", ".join(map(str, runs.FASHION_CODES))
        panels.tiles(axes, torch.stack(rows), f"{title}: {x[0].numel()} pixels through {sizes} numbers", names, size=8)
    return figure, numbers


def plane(lab: Lab) -> Drawn:
    """The codes of test images in two dimensions, beside the two principal components."""
    bench, subject = lab.digits, lab.subject("deep-2")
    pca = bench.pca
    spaces = {
        "Autoencoder": (subject.train_codes, subject.codes, ("first number of the code", "second number of the code")),
        "PCA": (
            *(pca.encode(source.pixels(), 2) for source in (bench.train, bench.held_out)),
            ("first principal component", "second principal component"),
        ),
    }
    figure, numbers = panels.page(9.6, 4.7), {}
    for axes, (name, (train, test, names)) in zip(figure.subplots(1, 2), spaces.items(), strict=True):
        told = numbers[f"{name.lower()}_knn"] = told_by_neighbours(bench, train, test)
        title = f"{name}: {100 * told:.0f} % named by the {probes.NEIGHBOURS} nearest codes"
        panels.planar(axes, test, bench.held_out.labels, title, names, legend=name == "PCA")
    numbers["autoencoder_mse"] = squared_error(subject)
    numbers["pca_mse"] = float(pca_errors(pca, bench.held_out.pixels())[2])
    return figure, numbers


def told_by_neighbours(bench: Benchmark, train: Tensor, test: Tensor) -> float:
    """Return the share of test codes [M, code] whose class their nearest training codes [N, code] vote for."""
    return float(probes.knn_probe(probes.task_of(bench, train, test))["knn"]) / 100


def pca_errors(pca: PCA, x: Tensor) -> np.ndarray:
    """Return the mean squared error per pixel of images x [N, C, H, W] by PCA of 0, 1, … all components."""
    centred = x.flatten(1).double() - pca.mean
    energies = (centred @ pca.components).square().mean(0)
    left = centred.square().sum(1).mean() - torch.cat([energies.new_zeros(1), energies.cumsum(0)])
    return (left.clamp_min(0) / centred.shape[1]).numpy()


def error_curve(lab: Lab) -> Drawn:
    """The error on test images over the size of the code: linear and deep autoencoders, and PCA of every size."""
    exact = pca_errors(lab.digits.pca, lab.digits.held_out.pixels())
    linear, deep = ([squared_error(lab.subject(f"{kind}-{n}")) for n in runs.CODES] for kind in ("linear", "deep"))
    figure, axes = style.chart("Reconstruction error over the size of the code (MNIST, test images)", 7.6, 4.4)
    sizes = np.arange(1, min(LARGEST, len(exact) - 1) + 1)
    axes.plot(sizes, exact[sizes], color=style.GREY, linewidth=1.8, label="PCA, exact for every size")
    axes.plot(runs.CODES, linear, "o", color=style.BLUE, markersize=7, label="linear autoencoder, trained")
    axes.plot(runs.CODES, deep, "s-", color=style.ORANGE, markersize=6, label="deep autoencoder 512-256-code")
    numbers: Numbers = {}
    for code, line, curve in zip(runs.CODES, linear, deep, strict=True):
        needed = int((exact <= curve).argmax())
        numbers |= {f"pca_{code}": float(exact[code]), f"linear_{code}": line, f"deep_{code}": curve}
        numbers[f"pca_size_of_deep_{code}"] = needed
        place = {"xytext": (-5, -12), "textcoords": "offset points", "ha": "right"}
        axes.annotate(f"as PCA-{needed}", (code, curve), fontsize=style.SMALL, color=style.INK, **place)
    # Where the code has as many numbers as the image, PCA leaves no error.
    over = [line / float(exact[code]) for code, line in zip(runs.CODES, linear, strict=True) if exact[code] > 1e-9]
    numbers |= {"least_over_pca": min(over), "most_over_pca": max(over)}
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_locator(FixedLocator([1, 2, 4, 8, 16, 32, 64, 128, 256]))
    axes.yaxis.set_major_locator(FixedLocator([0.001, 0.002, 0.005, 0.01, 0.02, 0.05]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=style.LABEL, frameon=False)
    style.name_axes(axes, "numbers in the code (log scale)", "mean squared error per pixel (log scale)")
    return figure, numbers


def one_unit(lab: Lab) -> Drawn:
    """A code of a single number: the images along it, and where each class lies."""
    bench, subject = lab.digits, lab.subject("one-unit")
    exact, error = pca_errors(bench.pca, bench.held_out.pixels()), squared_error(subject)
    first = [bench.pca.encode(source.pixels(), 1) for source in (bench.train, bench.held_out)]
    numbers = {
        "knn": told_by_neighbours(bench, subject.train_codes, subject.codes),
        "pca_knn": told_by_neighbours(bench, *first),
        "mse": error,
        "pca_mse": float(exact[1]),
        "pca_size": int((exact <= error).argmax()),
    }
    figure = panels.page(9.6, 5.2)
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 9))
    middles = (torch.arange(ALONG) + 0.5) / ALONG
    along = subject.model.decode(subject.codes[:, 0].quantile(middles)[:, None])
    panels.tiles(top, along[None], f"{along[0].numel()} pixels through a single number: the images along it")
    told, by_pca = (100 * numbers[key] for key in ("knn", "pca_knn"))
    title = (
        f"Where the digits lie: {told:.0f} % named by the {probes.NEIGHBOURS} nearest numbers, {by_pca:.0f} % by PCA's"
    )
    style.dress(bottom, title)
    ridges(bottom, subject.codes[:, 0], bench.held_out.labels.numpy())
    return figure, numbers


def ridges(axes: Axes, codes: Tensor, labels: np.ndarray) -> None:
    """Show how the ranks of `codes` [N] are spread in each class, one class above the other.

    Ranks, since the scale of a code means nothing: the decoder can undo any.
    """
    ranks = codes.argsort().argsort().numpy() * (100 / len(codes))
    edges = np.linspace(0, 100, 101)
    classes = np.unique(labels)
    for row, c in enumerate(classes[::-1]):
        counts = np.histogram(ranks[labels == c], edges)[0]
        heights = row + 0.92 * counts / max(counts.max(), 1)
        colour = style.CLASSES[c % len(style.CLASSES)]
        axes.stairs(heights, edges, baseline=row, fill=True, color=colour, alpha=0.85)
    axes.set_yticks(np.arange(len(classes)) + 0.3, [str(c) for c in classes[::-1]])
    axes.set(xlim=(0, 100), ylim=(0, len(classes)))
    style.name_axes(axes, "rank of the code's one number, in % of the test images", "class (each to its own height)")
