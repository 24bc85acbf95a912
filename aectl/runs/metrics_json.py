"""What an evaluation's numbers mean, which way each is better, which may be compared, and how one is written.

A table is a mapping of rows by name, a row one of numbers and texts by measure. `mse_ci95` is the half width of the
95 % confidence interval of `mse`, `mse_sd` a standard deviation: both are written behind the number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

from aectl.system.terminal import significant

Row = Mapping[str, Any]
Rows = Mapping[str, Row]

MODEL = "model"
"""The model's row; `model, likelihood` is another one of its rows. All others are baselines."""
SPREADS = ("_ci95", "_sd")
"""What the names of spreads end in."""

WORDS = ("missing", "titles")
"""Texts that a section of metrics.json holds by table."""
MADE = "made"
"""Where a section keeps each table's origin: checkpoint, epoch, weights, settings, time, and why it is stale, if so."""

MEAN_IMAGE = "mean image"
"""The row whose squared error is the variance of the images."""
COPY = 1e-3
"""Principal components whose squared error is below this share of the variance nearly copy the image."""

LARGEST = 2**63
"""Of whole numbers; Python could not divide those that a float has no room for."""

BETTER = {
    "noises/*": "higher",
    "objective/*loss": "lower",
    "objective/negative_elbo": "lower",
    "objective/reconstruction": "lower",
    "mse": "lower",
    "psnr*": "higher",
    "ssim": "higher",
    "perceptual": "lower",
    "linear*": "higher",
    "knn*": "higher",
    "nmi": "higher",
    "ari": "higher",
    "cluster_accuracy": "higher",
    "nll": "lower",
    "rhat_*": "lower",
    "ess_*": "higher",
    "auroc*": "higher",
    "ap_*": "higher",
    "energy*": "lower",
    "frechet": "lower",
    "kernel": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "modes": "higher",
    "class_kl": "lower",
    "smallest": "higher",
    "strays": "lower",
    # Of a discriminator or a classifier that is there to be deceived, neither way is better.
    "accuracy_real": "",
    "accuracy_fake": "",
    "accuracy_data": "",
    "accuracy_noise": "",
    "accuracy*": "higher",
    "svc": "higher",
    "error": "lower",
}
"""Which way is better, by measure or table/measure; where a measure matches none, neither way is."""

ARROWS = {"lower": "↓", "higher": "↑", "": ""}

CONDITIONS = {"likelihood": ("images",), "chains": ("chains", "draws", "burn_in", "thinning")}
"""Numbers that say how others were measured, by table. Texts always do."""

ALIKE = {"exact": "exact or bound", "bound": "exact or bound"}
"""Texts that stand for another one in comparing: what a bound on -log p(x) says is reached at least."""

MEANING = {
    "objective/loss": "what training minimises, a mean over images",
    "objective/negative_elbo": "negative evidence lower bound, at least the negative log-likelihood, in nats per image",
    "objective/nll": "the loss's term of reconstruction, -log p(x|z), in nats per image",
    "objective/kl": "the loss's divergence of the codes from their prior, in nats per image",
    "objective/kl_*": "the share in kl of this layer of codes, in nats per image",
    "objective/one_set": "mean over the orderings of each one's own negative log-likelihood, in nats per image",
    "objective/pseudo_nll": "negative pseudo-log-likelihood of the binary pixels, in nats per image",
    "objective/pseudo_nll_*": "negative pseudo-log-likelihood of this layer's input, in nats per image",
    "objective/reconstruction": "the loss's term of reconstruction, summed over pixels, a mean over images",
    "objective/reconstruction_*": "error of this layer in reconstructing its input, a mean over images",
    "objective/penalty": "the loss's penalty, a mean over images",
    "objective/classification": "cross-entropy of the classes, in nats per labelled image",
    "objective/error": "share of labelled images classified wrongly",
    "objective/mse_*": "mean squared error of this layer in reconstructing its input",
    "objective/dead": "share of the code's units that are the same for all images",
    "objective/energy": "mean free energy of the images, in nats",
    "objective/energy_distance": "energy distance between samples and these images",
    "objective/spread": "mean distance between samples, relative to that between images",
    "objective/reached": "share of images that are the nearest one of some sample",
    "sweep/epoch": "epoch of the best value",
    "sweep/seconds": "duration of the run",
    "sweep/val/*": "best value on validation images, a mean over them",
    "sweep/train/*": "best value on training images, a mean over them",
    "seeds/val/*": "mean over seeds of the best values on validation images",
    "seeds/train/*": "mean over seeds of the best values on training images",
    "seeds/seeds": "runs that differ in the seed alone",
    "seeds/95 % (t)": "Student's t interval of the mean over seeds",
    "seeds/p": "how probable a difference from the best as large as this one would be without one (Welch's test)",
    "noises/*": "PSNR of the restored images under this noise, in dB",
    "mse": "mean squared error per pixel",
    "psnr": "peak signal-to-noise ratio of the mean squared error, in dB",
    "psnr_image": "mean over images of each one's PSNR, in dB",
    "ssim": "mean structural similarity, 1 for equal images",
    "perceptual": "squared distance in the judge's features, relative to their size",
    "angle_to_pca_deg": "largest angle between the decoder's span and that of the principal components, in degrees",
    "linear": "linear classifier on codes, accuracy in %",
    "linear_*": "linear classifier from this number of labelled images, accuracy in %",
    "svc": "linear support vector machine on codes, accuracy in %",
    "knn": "nearest neighbours among codes, accuracy in %",
    "nmi": "normalised mutual information of clusters and classes, 1 for equal partitions",
    "ari": "adjusted Rand index of clusters and classes, 0 by chance",
    "cluster_accuracy": "images in the cluster that is matched with their class, in %",
    "nll": "negative log-likelihood in nats per image",
    "kind": "whether nll is exact, a bound that it lies below, or an estimate (AIS too low, reverse AIS too high)",
    "log_z": "log of the constant that the energies are normalised by, in nats",
    "binarisation": "pixels drawn as 0 or 1 anew (dynamic), 0 or 1 already (fixed), cut at a half, or grey (none)",
    "likelihood/samples": "draws per image of the bound; more make it tighter",
    "auroc_*": "area under the ROC curve, .5 by chance",
    "ap_*": "average precision",
    "rhat_*": "split R-hat of this statistic of the states: 1 where the chains have forgotten their starts",
    "ess_*": "independent draws that tell the mean of this statistic as well",
    "images": "images that were measured",
    "chains/chains": "chains that were run",
    "chains/draws": "states of each chain",
    "burn_in": "steps before the first draw",
    "thinning": "steps from draw to draw",
    "energy": "energy distance between samples and held-out images",
    "diversity": "mean distance between samples, relative to that between held-out images",
    "nearest_train": "median distance to the nearest training image, relative to that of held-out images",
    "copies": "samples nearer to a training image than all but 1 % of held-out images, in %",
    "strays": "samples farther from all training images than all but 1 % of held-out images, in %",
    "frechet": "Fréchet distance in the judge's features (not FID)",
    "kernel": "squared kernel distance (MMD) in the judge's features",
    "precision": "share of samples within the manifold of held-out images",
    "recall": "share of held-out images within the manifold of samples",
    "modes": "classes that samples reach",
    "class_kl": "divergence of the samples' classes from the data's, in nats",
    "class_*": "share of this class, in %",
    "smallest": "share of the rarest class, in %",
    "accuracy": "images classified rightly, in %",
    "classification/error": "images classified wrongly, in %",
    "accuracy_real": "share of real images that the discriminator tells right",
    "accuracy_fake": "share of the generator's images that the discriminator tells right",
    "accuracy_data": "share of images that the classifier tells from noise",
    "accuracy_noise": "share of noise that the classifier tells from images",
    "log_ratio": "mean of log p / q, what the model gives images more than the noise distribution does, in nats",
    "published/ours": "as measured here",
    "published/difference": "ours less the reference",
    "published/bound": "what was agreed on beforehand",
    "active_share": "share of units active on an image",
    "active_units": "units active on an image",
    "dead_units": "units never active",
    "active_latents": "units whose posterior mean varies over images with a variance above .01",
    "units": "size of the code",
    "hoyer": "Hoyer sparsity, 0 for equal units, 1 for a single active one",
}
"""One line on each measure, by measure or table/measure."""


def looked_up(known: Mapping[str, str], table: str, measure: str) -> str:
    """Return what `known` says of a measure: under its own name, else the first pattern that fits, else nothing."""
    names = (f"{table}/{measure}", measure)
    for name in names:
        if name in known:
            return known[name]
    return next((found for pattern, found in known.items() if any(fnmatchcase(n, pattern) for n in names)), "")


def better(table: str, measure: str) -> str:
    """Return which way a measure is better: `lower`, `higher`, or the empty text for neither."""
    return looked_up(BETTER, table, measure)


def arrow(table: str, measure: str) -> str:
    """Return ↓ where lower is better, ↑ where higher is, and nothing else."""
    return ARROWS[better(table, measure)]


def meaning(table: str, measure: str) -> str:
    """Return one line on a measure, or the empty text."""
    return looked_up(MEANING, table, measure)


def is_spread(measure: str) -> bool:
    """Return whether a measure is the spread of another one."""
    return measure.endswith(SPREADS)


def is_models(name: str) -> bool:
    """Return whether a row is one of the model's, not a baseline's."""
    return name == MODEL or name.startswith(f"{MODEL}, ")


def competes(name: str, rows: Rows) -> bool:
    """Return whether a row competes; principal components that nearly copy the image do not, since they cannot lose.

    They copy if their squared error is below `COPY` times that of the mean image, as with 50 components of 64 pixels.
    """
    variance = rows.get(MEAN_IMAGE, {}).get("mse")
    return not components(name, rows[name]) or not is_number(variance) or rows[name]["mse"] > COPY * variance


def components(name: str, row: Row) -> int:
    """Return how many principal components a row reconstructs images from, 0 if it is of something else."""
    return pca_size(name) if is_number(row.get("mse")) else 0


def pca_size(name: str) -> int:
    """Return the components of a row called `PCA-32`, 0 for other names."""
    size = name.removeprefix("PCA-")
    return int(size) if name != size and size.isdecimal() and len(size) < 10 else 0


def copies_note(rows: Rows) -> str:
    """Return which rows are left out of the best because they nearly copy the image; the empty text if none is."""
    copies = [name for name in rows if not competes(name, rows)]
    verb = "nearly copies" if len(copies) == 1 else "nearly copy"
    share = f"over {100 * (1 - COPY):.1f} % of the variance"
    return f"{', '.join(copies)} {verb} the image ({share}), not counted as best" if copies else ""


def pca_legend(tables: Mapping[str, Rows]) -> str:
    """Return why PCA rows have other numbers of components than the code has units; the empty text if none has."""
    sizes = {name: sorted(filter(None, map(pca_size, rows))) for name, rows in tables.items()}
    units = tables.get("codes", {}).get(MODEL, {}).get("units")
    found: dict[int, str] = {}
    rank = "the rank of the training images"
    for name in ("reconstruction", "codes", "probes", "clusters"):
        for size in sizes.get(name, [])[-1:]:
            if not is_number(units):
                found[size] = f"as many components as the code has units, at most {rank}"
            elif size < units:
                found[size] = f"fewer components than the code has units ({units:,.0f}): {rank}"
    for size in sizes.get("reconstruction", [])[:-1]:
        found[size] = "as many components as units are active on the average image"
    for size in sizes.get("anomalies", []):
        if size != units:
            found.setdefault(size, "a quarter as many components as pixels, at most 64 and the rank")
    return "; ".join(f"PCA-{size}: {why}" for size, why in found.items())


def tables_of(section: Mapping[str, Any]) -> dict[str, Rows]:
    """Return the tables in a section of metrics.json, by name: what of it is made of rows."""
    found = {name: rows for name, rows in section.items() if isinstance(rows, dict) and name not in (*WORDS, MADE)}
    return {name: rows for name, rows in found.items() if all(isinstance(row, dict) for row in rows.values())}


def damage(section: Mapping[str, Any]) -> str:
    """Return where a section of metrics.json is not what an evaluation writes, the empty text if it is all right.

    It may have been written by a stranger: numbers must be such that can be computed with.
    """
    for key, kind in (
        ("images", int),
        ("epoch", int),
        ("fingerprint", str),
        ("quick", str),
        ("when", str),
        *((word, dict) for word in (*WORDS, MADE)),
    ):
        if section.get(key) is not None and type(section[key]) is not kind:
            return key
    if not are_verdicts(section.get("verdicts")):
        return "verdicts"
    texts = {f"{word}.{key}": text for word in WORDS for key, text in (section.get(word) or {}).items()}
    wrong = [where for where, text in texts.items() if not isinstance(text, str)]
    origins = section.get(MADE) or {}
    wrong += [f"{MADE}.{name}" for name, one in origins.items() if not is_origin(one)]
    for name, rows in tables_of(section).items():
        wrong += [f"{name}.{row}.{m}" for row, found in rows.items() for m, v in found.items() if not is_cell(v)]
    return wrong[0] if wrong else ""


def are_verdicts(found: Any) -> bool:
    """Return whether this is a list of verdicts, each with an outcome and a text, or None as in older files."""
    if found is None:
        return True
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return False
    texts = all(isinstance(one.get(key), str) for one in found for key in ("table", "outcome", "text"))
    return texts and all(is_cell(value) for one in found for value in one.values())


def is_origin(value: Any) -> bool:
    """Return whether a value can say where a table comes from: numbers and texts by name."""
    return isinstance(value, dict) and all(is_cell(one) for one in value.values())


def origin_note(section: Mapping[str, Any], table: str) -> str:
    """Return what sets a table apart from the evaluation it stands in: stale, or of another checkpoint or seed.

    The empty text for a table that was made as the section says.
    """
    one = (section.get(MADE) or {}).get(table) or {}
    if one.get("stale"):
        return f"stale: {one['stale']}"
    differs = [key for key in ("checkpoint", "epoch") if one.get(key) != section.get(key)]
    parts = [f"checkpoint {one.get('checkpoint')}, epoch {one.get('epoch')}"] if one and differs else []
    seeds = [part for part in str(one.get("settings", "")).split() if part.startswith("seed=")]
    parts += [part for part in seeds if part != f"seed={section.get('seed')}"]
    return ", ".join(parts)


def is_cell(value: Any) -> bool:
    """Return whether a value can stand in a table: a text, a truth, nothing, or a number that a float has room for."""
    return value is None or isinstance(value, (str, bool, float)) or (is_number(value) and abs(value) < LARGEST)


def columns(rows: Iterable[Row]) -> list[str]:
    """Return the measures of a table in the order in which they come, without the spreads."""
    return list(dict.fromkeys(key for row in rows for key in row if not is_spread(key)))


def spread(row: Row, measure: str) -> float | None:
    """Return the spread of a measure, or None if the row has none."""
    found = next((row[measure + ending] for ending in SPREADS if measure + ending in row), None)
    return found if is_number(found) else None


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def written(row: Row, measure: str) -> tuple[str, str]:
    """Return one measure as text, and its spread as `± …` or nothing; see `column`."""
    return column([row], measure)[0]


def column(rows: Iterable[Row], measure: str) -> list[tuple[str, str]]:
    """Return a column of a table: each row's number as text, and its spread as `± …` or nothing.

    A number with a spread has as many decimals as two significant digits of the spread; others have four significant
    digits, or none behind the point where the whole column is of whole numbers.
    """
    rows = list(rows)
    known = [row[measure] for row in rows if is_number(row.get(measure))]
    counts = all(float(value).is_integer() and abs(value) < 1e6 for value in known)
    return [cell(row.get(measure), spread(row, measure), counts) for row in rows]


def cell(value: Any, width: float | None, count: bool) -> tuple[str, str]:
    """Return one value as text with its spread `width`; a `count` is written without decimals."""
    if not is_number(value):
        return ("" if value is None else str(value)), ""
    if not math.isfinite(value):
        return ("–" if math.isnan(value) else "∞" if value > 0 else "-∞"), ""
    if width is None or not math.isfinite(width) or width <= 0:
        return (f"{value:.0f}" if count else significant(value)), ("± 0" if width == 0 else "")
    decimals = max(1 - math.floor(math.log10(width)), 0)
    if decimals > 7:
        return significant(value), f"± {width:.1e}"
    return f"{value:.{decimals}f}", f"± {width:.{decimals}f}"


def conditions(table: str, row: Row) -> tuple[tuple[str, Any], ...]:
    """Return how a row was measured: rows that differ in it are not compared, such as a bound and an estimate."""
    named = CONDITIONS.get(table, ())
    told = {key: ALIKE.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
    return tuple(sorted((k, v) for k, v in told.items() if isinstance(v, str) or k in named))


def best(table: str, rows: Rows, measure: str) -> set[str]:
    """Return the names of the rows that are best in a measure, among rows measured alike; one alone is no best.

    Baselines that cannot lose are left out.
    """
    way = better(table, measure)
    groups: dict[tuple[tuple[str, Any], ...], dict[str, float]] = {}
    for name, row in rows.items():
        value = row.get(measure)
        if way and is_number(value) and not math.isnan(value) and competes(name, rows):
            groups.setdefault(conditions(table, row), {})[name] = value
    choose = min if way == "lower" else max
    tops = [(group, choose(group.values())) for group in groups.values() if len(group) > 1]
    return {name for group, top in tops for name, value in group.items() if value == top}
