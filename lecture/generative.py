"""Figures of generative models: the planes of an autoencoder and a VAE, samples of both, a GAN in training."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes

from aectl.figures import image_grids, style
from aectl.models.gan import energy_distance
from aectl.rng import Rng
from aectl.sampling import Request, logged_images, paths
from lecture import panels
from lecture.lab import Drawn, Lab, Numbers

SIDE = 7
COUNTED = 2000
"""Samples that the energy distance is measured from."""
PLANE = 18
EPOCHS = 9
"""Columns of the strip of a GAN's training."""
SAME_NOISE = 3
GANS = {"gan-minimax": "minimax", "gan": "non-saturating", "gan-relativistic": "relativistic"}
"""Runs of GANs, and the names of their losses."""


def planes(lab: Lab) -> Drawn:
    """The planar codes of an autoencoder and of a VAE, and samples decoded from random points of both planes."""
    figure = panels.page(9.6, 8.6)
    panes = figure.subplots(2, 2, height_ratios=(1, 1.05))
    numbers: Numbers = {}
    plain, vae = lab.subject("deep-2"), lab.subject("vae-2")
    low, high = plain.codes.quantile(torch.tensor(paths.QUANTILES), dim=0)
    box = low + (high - low) * Rng(0).fork("box").uniform(COUNTED, 2)
    prior = Rng(0).fork("prior").normal(COUNTED, 2)
    held_out = lab.digits.held_out.pixels()[:COUNTED]
    columns = (
        ("Autoencoder", plain, box, "evenly over its box of codes"),
        ("VAE", vae, prior, "from the prior N(0, I)"),
    )
    for (above, below), (name, subject, drawn, law) in zip(panes.T, columns, strict=True):
        axes = ("first number of the code", "second number of the code")
        title = f"{name}: codes of test images"
        panels.planar(above, subject.codes, lab.digits.held_out.labels, title, axes, legend=subject is vae)
        above.scatter(*drawn[: SIDE**2].T.numpy(), s=26, marker="x", color=style.INK, linewidths=1.1, zorder=6)
        pictures = subject.model.decode(drawn)
        panels.tiles(below, panels.grid(pictures[: SIDE**2], SIDE), f"{name}: × {law}")
        key = name.lower()
        numbers |= {f"{key}_std_{i + 1}": float(subject.codes[:, i].std()) for i in range(2)}
        numbers |= {f"{key}_energy": float(energy_distance(held_out, pictures))}
        numbers |= {f"{key}_far": float(subject.codes.abs().amax())}
    half = len(held_out) // 2
    numbers["real_energy"] = float(energy_distance(held_out[:half], held_out[half:]))
    return figure, numbers


def vae_plane(lab: Lab) -> Drawn:
    """Images over the quantiles of a VAE's planar prior, beside those over an autoencoder's box of codes."""
    figure = panels.page(9.6, 5.15)
    titles = {"deep-2": "Autoencoder: over the box of its codes", "vae-2": "VAE: over the quantiles of N(0, I)"}
    request = Request(1, Rng(0), 1.0, lab.digits.held_out)
    for axes, (run, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        found = paths.decode_plane(lab.subject(run).model, request, PLANE)
        panels.tiles(axes, found["images"], title)
        places = image_grids.centres(found["images"], 0)[[0, -1]]
        across, up = found["codes"][0, [0, -1], 0], found["codes"][[0, -1], 0, 1]
        axes.set_xticks(places, [f"{value:.1f}" for value in across.tolist()])
        axes.set_yticks(places, [f"{value:.1f}" for value in up.tolist()])
        style.name_axes(axes, "first number of the code", "second number of the code")
    best = min(measured(lab.root / "vae-2"), key=lambda row: row["val/loss"])
    return figure, {name: best[f"val/{name}"] for name in ("negative_elbo", "nll", "kl")}


def training(lab: Lab) -> Drawn:
    """The same random codes through three generators after more and more epochs, and their distances to the data."""
    figure = panels.page(9.6, 7.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    request = Request(1, Rng(0), 1.0, lab.digits.held_out)
    rows, names, found = [], [], {}
    for run in GANS:
        folder = lab.root / run
        drawn = logged_images.load_training_images(lab.subject(run).model, replace(request, folder=folder))
        epochs = drawn["epochs"].tolist()
        wanted = np.geomspace(1, epochs[-1], EPOCHS)
        places = sorted({min(range(len(epochs)), key=lambda i: abs(epochs[i] - place)) for place in wanted})
        rows.append(drawn["images"][places, 0, :SAME_NOISE].transpose(0, 1))
        names = [f"epoch {epochs[places[0]]}", *(str(epochs[i]) for i in places[1:])]
    beside = [name if i == SAME_NOISE // 2 else "" for name in GANS.values() for i in range(SAME_NOISE)]
    panels.tiles(left, torch.cat(rows), "One random code in each row, over the epochs", beside, names)
    style.dress(right, "Energy distance to held-out digits")
    for (run, name), colour in zip(GANS.items(), (style.GREY, style.BLUE, style.ORANGE), strict=True):
        key = name.replace("-", "")
        found |= {f"{key}_{part}": value for part, value in distances(right, measured(lab.root / run), colour).items()}
        right.plot([], [], "o-", color=colour, markersize=3.5, label=name)
    right.set_yscale("log")
    right.legend(frameon=False)
    style.name_axes(right, "epoch", "energy distance (log scale)")
    return figure, found


def distances(axes: Axes, rows: list[Numbers], colour: str) -> Numbers:
    """Draw the energy distance over the epochs; return the first and the best, and the discriminator's accuracies."""
    epochs, values = ([row[name] for row in rows] for name in ("epoch", "val/energy_distance"))
    axes.plot(epochs, values, "o-", color=colour, markersize=3.5)
    best = int(np.argmin(values))
    found = {"first": values[0], "best": values[best], "best_epoch": epochs[best], "epochs": epochs[-1]}
    return found | {f"accuracy_{part}": rows[-1][f"train/accuracy_{part}"] for part in ("real", "fake")}


def measured(folder: Path) -> list[Numbers]:
    """Return what a run measured after each epoch."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if key != "stage"} for row in csv.DictReader(file)]
