"""Samples of a model compared with held-out images: in pixels, in the judge's features, and by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from aectl.data.datasets import Source
from aectl.evaluation.context import Benchmark, Drawn, Row, Rows, Subject, Unmeasured, mean_ci95
from aectl.evaluation.distances import (
    FRECHET,
    GROUPS,
    Kernel,
    PairMeans,
    cubic,
    estimate,
    frechet,
    groups,
    pair_means,
    within,
)
from aectl.evaluation.evaluation import Evaluation
from aectl.evaluation.judge import Judge, Seen
from aectl.evaluation.memorisation import MEMORISED, memorisation
from aectl.evaluation.nearest_neighbours import nearest
from aectl.evaluation.precision_recall import METRICS as PRECISION_RECALL
from aectl.evaluation.precision_recall import precision_recall
from aectl.evaluation.sample_baselines import sample_baselines
from aectl.evaluation.verdict import Headline
from aectl.metric import Metric
from aectl.models.base import Decodes, Encodes, Samples

FEWEST = 5 * GROUPS
"""Minimum number of held-out images for spreads over groups of them."""
COVERED = 0.1
"""A class is reached if its share among samples is at least this part of its share among held-out images."""

BASELINES = (("PCA-Gaussian", "GMM-*"),)
GOAL, WORDS = "real training images", {"real training images": "training images"}
ENERGY = Metric("energy", "energy distance between samples and held-out images", "lower")
DIVERSITY = Metric("diversity", "mean distance between samples, relative to that between held-out images")
MODES = Metric("modes", "classes that samples reach", "higher")
JUDGE = Metric("judge", "the judge: its data set or run, and the first digits of its digest", detail=True)
IN_PIXELS = (
    ENERGY,
    DIVERSITY,
    Metric("nearest_train", "median distance to the nearest training image, relative to that of held-out images"),
    MEMORISED,
    Metric(
        "strays",
        "samples farther from all training images than all but 1 % of held-out images",
        "lower",
        "%",
        detail=True,
    ),
    MODES,
)
IN_FEATURES = (
    FRECHET,
    Metric("kernel", "squared kernel distance (MMD) in the judge's features", "lower"),
    *PRECISION_RECALL,
    MEMORISED,
    MODES,
    Metric("classes", "classes among held-out images", detail=True),
    Metric("class_kl", "divergence of the samples' classes from the data's", "lower", "nats", detail=True),
    Metric("class_accuracy", "samples of a requested class that the judge puts in that class", "higher", "%"),
    replace(DIVERSITY, detail=True),
    JUDGE,
)
CLASS_SHARES = (
    Metric("class_*", "share of this class", unit="%", detail=True),
    Metric("smallest", "share of the rarest class", "higher", "%"),
)
HEADLINE = Headline("samples", ENERGY, BASELINES, rank=6, about="samples: energy distance", goal=GOAL, words=WORDS)
HEADLINE_IN_FEATURES = Headline(
    "samples", FRECHET, BASELINES, rank=5, about="samples: Fréchet distance", goal=GOAL, words=WORDS
)


def measure(subject: Subject) -> Rows:
    """Return metrics of samples in pixels: energy distance, diversity, and distance to the training images."""
    bench, drawn = subject.bench, draw_samples(subject, FEWEST)

    def row(images: Tensor) -> Row:
        return compare_pixels(bench, images, *nearest(images, bench.train.pixels()))

    rows = {name: compare_pixels(bench, one.images, *one.nearest) for name, one in drawn.items()}
    return rows_with_baselines(bench, "samples", rows, row)


def distances(subject: Subject) -> Rows:
    """Return metrics of samples in the judge's features; raises Unmeasured if the data set has no judge."""
    bench, judge = subject.bench, subject.bench.judged()
    drawn = draw_samples(subject, FEWEST)

    def row(images: Tensor) -> Row:
        return compare_features(bench, judge, judge.see(images))

    rows = {name: compare_features(bench, judge, one.seen) for name, one in drawn.items()}
    if isinstance(subject.model, Samples) and subject.by_class is not None:
        of_classes, requested = subject.by_class
        rows["model"] |= mean_ci95(100.0 * (of_classes.seen.classes == requested).double(), "class_accuracy")
    return rows_with_baselines(bench, f"distances-{judge.name}", rows, row)


def classes(subject: Subject) -> Rows:
    """Return the percentage of each class, by the nearest training image and, if there is one, by the judge."""
    bench, train = subject.bench, subject.bench.train
    if not (train.labels >= 0).any():
        raise Unmeasured("the images have no labels")
    drawn = draw_samples(subject)

    def held_out() -> Row:
        images = bench.held_out.pixels()
        return class_shares(nearest_classes(images, train, held_out_nearest(bench)[1]), train)

    rows = {
        name: class_shares(nearest_classes(one.images, train, one.nearest[1]), train) for name, one in drawn.items()
    }
    rows["held-out images"] = bench.cache.numbers("classes-held-out", held_out)
    if isinstance(bench.judge, Judge):
        by = "by the judge" if bench.judge.is_shipped else f"by {bench.judge.name}"
        for name, one in drawn.items():
            rows[f"{name}, {by}"] = class_shares(one.seen.classes, train)
        rows[f"held-out images, {by}"] = class_shares(bench.seen.classes, train)
    return rows


def draw_samples(subject: Subject, fewest: int = 1) -> dict[str, Drawn]:
    """Return the model's samples by row; raises Unmeasured for NaN, or fewer than `fewest` held-out images."""
    if len(subject.bench.held_out) < fewest:
        raise Unmeasured(f"there are fewer than {fewest} held-out images to compare samples with")
    if not all(torch.isfinite(one.images).all() for one in subject.drawn.values()):
        raise Unmeasured("the model's samples are NaN or infinite")
    return subject.drawn


def compare_pixels(bench: Benchmark, images: Tensor, distance: Tensor, position: Tensor) -> Row:
    """Return metrics of images x [N, C, H, W] compared with held-out images y.

    `distance` [N] and `position` [N] are those of the nearest training images. `energy` is 2 E‖x - y‖ - E‖x - x′‖ -
    E‖y - y′‖ (Székely & Rizzo 2013). `diversity` is E‖x - x′‖ / E‖y - y′‖. `nearest_train` is the median distance to
    the nearest training image, divided by that of held-out images: it is far below 1 for copies, but low for blurred
    images too. `strays` is the percentage farther from all training images than all but 1 % of the held-out images.
    See the functions for `memorised` and `modes`.
    """
    pairs = with_held_out(bench, images.flatten(1), bench.held_out.pixels().flatten(1), torch.cdist, "pixels")
    usual = held_out_nearest(bench)[0]
    # The median is 0 if most held-out images are copies of training images.
    typical = usual.median().clamp_min(1e-6)
    # The median of the distribution is between these order statistics in 95 % of all cases.
    reach = 0.98 / len(distance) ** 0.5
    low, middle, high = (float(distance.quantile(0.5 + side * reach) / typical) for side in (-1, 0, 1))
    return {
        **estimate(-pairs.discrepancy(), "energy"),
        **estimate(pairs.within_x / pairs.within_y, "diversity"),
        **{"nearest_train": middle, "nearest_train_ci95": (high - low) / 2},
        **copied_share(bench, images, bench.train.pixels(), bench.held_out.pixels(), distance),
        **mean_ci95(100 * (distance > usual.quantile(0.99)).double(), "strays"),
        **count_modes(bench, images, position),
    }


def copied_share(
    bench: Benchmark, samples: Tensor, train: Tensor, held_out: Tensor, distance: Tensor | None = None
) -> Row:
    """Return `memorisation` of samples, all given as vectors of all training and held-out images.

    Empty if most held-out images equal a training image, as with split=train. Held-out images of excluded classes do
    not count: they differ from training images anyway.
    """
    known = held_out_nearest(bench)[0] == 0
    return {} if known.float().mean() > 0.5 else memorisation(samples, train, held_out[~bench.is_excluded], distance)


def count_modes(bench: Benchmark, images: Tensor, position: Tensor) -> Row:
    """Return `modes`, see `compare_classes`, by the class of the nearest training image of each image [N, C, H, W].

    `position` [N] are the positions of these training images. Empty if the training images have no labels.
    """
    train, held_out = bench.train, bench.held_out.pixels()
    if not (train.labels >= 0).any():
        return {}
    usual = nearest_classes(held_out, train, held_out_nearest(bench)[1])
    return {"modes": compare_classes(nearest_classes(images, train, position), usual, train)["modes"]}


def compare_features(bench: Benchmark, judge: Judge, seen: Seen) -> Row:
    """Return metrics of features x [N, D] and classes [N] compared with those of held-out images y [M, D].

    See the functions for `frechet`, precision, recall, density, coverage, `memorised`, `modes` and `class_kl`. `kernel`
    is the squared maximum mean discrepancy with the kernel (x·y / D + 1)³ (Bińkowski et al. 2018). `diversity` is
    E‖x - x′‖ / E‖y - y′‖.
    """
    found, reference = seen.features, bench.seen.features
    pairs = with_held_out(bench, found, reference, torch.cdist, f"{judge.name}-distance")
    cubes = with_held_out(bench, found, reference, cubic, f"{judge.name}-cubic")
    return {
        **frechet(found, reference),
        **estimate(cubes.discrepancy(), "kernel"),
        **precision_recall(found, reference),
        **copied_share(bench, found, bench.seen_train.features, reference),
        **compare_classes(seen.classes, bench.seen.classes, bench.train),
        **estimate(pairs.within_x / pairs.within_y, "diversity"),
        "judge": judge.name,
    }


def compare_classes(found: Tensor, reference: Tensor, train: Source) -> Row:
    """Compare the classes `found` [N] with those of held-out images, `reference` [M].

    `modes` is the number of classes whose share is at least a tenth of that among held-out images, out of `classes`.
    `class_kl` is Σ_c p_c log(p_c / q_c) in nats, with the shares p found and the shares q of the training images'
    labels. Each label is counted once more than it occurs, so that it is finite.
    """
    size = 1 + max(int(labels.max()) for labels in (found, reference, train.labels))
    shares = found.bincount(minlength=size) / len(found)
    usual = reference.bincount(minlength=size) / len(reference)
    prior = 1 + train.labels[train.labels >= 0].bincount(minlength=size)
    return {
        "modes": float(((shares >= COVERED * usual) & (usual > 0)).sum()),
        "classes": float((usual > 0).sum()),
        "class_kl": float(torch.special.xlogy(shares, shares * prior.sum() / prior).sum()),
    }


def class_shares(found: Tensor, train: Source) -> Row:
    """Return the percentage of each class among `found` [N], and the lowest of any class in the training images."""
    shares = (100 * found.bincount(minlength=train.classes) / len(found)).tolist()
    present = [label for label in train.labels.unique().tolist() if label >= 0]
    return {
        **{f"class_{label}": share for label, share in enumerate(shares)},
        "smallest": min(shares[label] for label in present),
    }


def nearest_classes(images: Tensor, train: Source, nearest_of_all: Tensor) -> Tensor:
    """Return the class [N] of the nearest labelled training image; `nearest_of_all` are positions among all of them."""
    labelled = train.labels >= 0
    if labelled.all():
        return train.labels[nearest_of_all]
    known = train.take(labelled.nonzero().squeeze(1))
    return known.labels[nearest(images, known.pixels())[1]]


def with_held_out(bench: Benchmark, x: Tensor, y: Tensor, kernel: Kernel, name: str) -> PairMeans:
    """Return the means of a kernel over pairs of vectors x [N, D] and vectors y [M, D] of the held-out images.

    The mean over pairs of held-out images is cached under `name`, which must identify the vectors and the kernel.
    """
    known = bench.cache.arrays(f"pairs-{name}", lambda: {"within": within(groups(y), kernel)})["within"]
    return pair_means(x, y, kernel, known.to(y.device))


def held_out_nearest(bench: Benchmark) -> tuple[Tensor, Tensor]:
    """Return the distance [N] of each held-out image to the nearest training image, and that image's position [N]."""

    def compute() -> dict[str, Tensor]:
        distance, position = nearest(bench.held_out.pixels(), bench.train.pixels())
        return {"distance": distance, "position": position}

    found = bench.cache.arrays("nearest-train", compute)
    device = bench.train.images.device
    return found["distance"].to(device), found["position"].to(device)


def rows_with_baselines(bench: Benchmark, name: str, models: Rows, row: Callable[[Tensor], Row]) -> Rows:
    """Return the model's rows and, for each baseline, `row` of its images, which is cached under `name`."""
    rows = dict(models)
    for label, draw in sample_baselines(bench).items():
        key = f"{name}-{label}-seed-{bench.seed}".replace(" ", "-")

        def compute(draw: Callable[[], Tensor] = draw) -> Row:
            return row(draw())

        rows[label] = bench.cache.numbers(key, compute)
    return rows


CODES, SAMPLER = (Encodes, Decodes), ("sampler", "components")

EVALUATIONS = (
    Evaluation(
        "samples",
        "samples, by their pixels",
        (Samples,),
        measure,
        IN_PIXELS,
        order=90,
        headline=HEADLINE,
        settings=SAMPLER,
        with_sampler=CODES,
    ),
    Evaluation(
        "distances",
        "samples, in the judge's features",
        (Samples,),
        distances,
        IN_FEATURES,
        order=100,
        headline=HEADLINE_IN_FEATURES,
        settings=("judge", *SAMPLER),
        with_sampler=CODES,
    ),
    Evaluation(
        "classes",
        "classes of samples, in %",
        (Samples,),
        classes,
        CLASS_SHARES,
        order=120,
        settings=("judge", *SAMPLER),
        with_sampler=CODES,
    ),
)
