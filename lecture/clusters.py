"""The figure of clusters: what k-means finds in codes, without having seen a label."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.clustering import k_means, measure_agreement
from aectl.evaluation.codes import pixels
from aectl.evaluation.context import Subject
from aectl.figures import style
from lecture import panels
from lecture.lab import Drawn, Lab, Numbers

MEMBERS = 9
"""Images shown of each cluster."""
SPACES = {"deep-8": "undercomplete, code 8", "deep-32": "undercomplete, code 32", "vae-2": "VAE, code 2"}
SHOWN = "deep-8"


def clusters(lab: Lab) -> Drawn:
    """The clusters of a code of 8, centres decoded and members; how well clusters of other spaces fit the classes."""
    bench = lab.digits
    source = bench.held_out
    spaces = {run: (lab.subject(run).codes, name) for run, name in SPACES.items()}
    spaces["pca-32"] = bench.pca.encode(source.pixels(), 32), "PCA-32"
    spaces["raw"] = pixels(source), "raw pixels"
    numbers: Numbers = {}
    for key, (codes, _) in spaces.items():
        row = measure_agreement(codes, source.labels, bench)
        numbers |= {f"{key.replace('-', '_')}_{measure}": float(row[measure]) for measure in ("nmi", "ari")}
        numbers[f"{key.replace('-', '_')}_accuracy"] = float(row["cluster_accuracy"]) / 100
    figure = panels.page(9.6, 5.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    found = k_means(spaces[SHOWN][0], source.classes, bench.rng("k-means", 0).seed % 2**32)
    gallery(left, lab.subject(SHOWN), torch.from_numpy(found))
    compare(right, numbers, {key: name for key, (_, name) in spaces.items()})
    return figure, numbers


def gallery(axes: Axes, subject: Subject, found: Tensor) -> None:
    """Show each cluster's decoded centre and its first members, the clusters ordered by their commonest class."""
    source = subject.bench.held_out
    members = [(found == cluster).nonzero().squeeze(1) for cluster in found.unique()]
    rows = sorted((row_of(subject, source, own) for own in members), key=lambda row: row[0])
    pictures = torch.stack([images for _, _, images in rows])
    panels.tiles(axes, pictures, "k-means on codes of 8: centres decoded, and members", [name for _, name, _ in rows])


def row_of(subject: Subject, source: Source, members: Tensor) -> tuple[int, str, Tensor]:
    """Return a cluster's commonest class, its name, and its images: the decoded centre, a gap, its first members."""
    counts = source.labels[members].bincount(minlength=source.classes)
    centre = subject.model.decode(subject.codes[members].mean(0, keepdim=True))
    images = source.batch(members[:MEMBERS]).x
    blank = images.new_ones(MEMBERS - len(images), *images.shape[1:])
    name = f"{len(members):,}: {100 * counts.max() / len(members):.0f} % are {int(counts.argmax())}"
    return int(counts.argmax()), name, torch.cat([centre, torch.ones_like(centre), images, blank])


def compare(axes: Axes, numbers: Numbers, names: dict[str, str]) -> None:
    """Show NMI and accuracy of the clusters of each space."""
    style.dress(axes, "Do ten clusters fit the ten classes?")
    places = np.arange(len(names))
    measures = ((-0.2, "nmi", "NMI", style.BLUE), (0.2, "accuracy", "accuracy, best matching", style.ORANGE))
    for offset, measure, label, colour in measures:
        values = [numbers[f"{key.replace('-', '_')}_{measure}"] for key in names]
        axes.barh(places + offset, values, 0.36, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.01, place + offset, f"{value:.2f}", va="center", fontsize=style.SMALL)
    axes.set_yticks(places, list(names.values()))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.legend(fontsize=style.SMALL, frameon=False, loc="upper center", bbox_to_anchor=(0.3, -0.13), ncols=2)
    style.name_axes(axes, "agreement with the classes (1: perfect)", "")
