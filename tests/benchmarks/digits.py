"""Trains every model of conf/model on the digits as `aectl train dataset=digits model=X` does, and measures it.

    python -m tests.benchmarks.digits [MODEL ...] > docs/digits.jsonl

Prints a line of JSON for each model: CPU seconds of the whole command on one thread, and on the 360 test images the
model's error next to that of the mean image and of PCA with as many components as the code has, its -log p(x) next to
that of independent pixels, its class error next to that of the most frequent class, and the energy distance of its
samples next to that of the mean image. `python -m tests.benchmarks.digits table docs/digits.jsonl` prints the table of
docs/DIGITS.md.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from aectl.config import list_options
from aectl.data.datasets import digits
from aectl.models.base import Classifies, Encodes, Model, Reconstructs, Samples
from aectl.models.gan import energy_distance
from aectl.rng import Rng
from aectl.runs.loading import load
from aectl.runs.run import Run
from aectl.training.validation import validate

OWN_DATA = ("boltzmann", "custom")
"""Models that do not fit the digits: one goes through all 2^n images, the other is a class of one's own."""
PROGRAM = str(Path(sys.executable).parent / "aectl")


def main(words: list[str]) -> None:
    """Measure the models named, or all; or print the table of what was measured."""
    if words[:1] == ["table"]:
        print(table([json.loads(line) for line in Path(words[1]).read_text().splitlines()]))
        return
    for name in words or [name for name in list_options()["model"] if name not in OWN_DATA]:
        print(json.dumps(measure(name)), flush=True)


def measure(name: str) -> dict[str, Any]:
    """Train a model and return its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        command = [PROGRAM, "train", "dataset=digits", f"model={name}", "device=cpu", "device.threads=1"]
        before = cpu_seconds()
        subprocess.run([*command, f"hydra.run.dir={folder}/run"], check=True, capture_output=True, cwd=folder)
        seconds = cpu_seconds() - before
        run = Run(Path(folder, "run"))
        config = run.config()
        row = {"model": name, "cpu_seconds": round(seconds, 1), "epochs": config.epochs, "batch": config.batch_size}
        return row | score(load(run.folder)) | {"alarms": sorted(run.record.get("alarms") or {})}


def cpu_seconds() -> float:
    """Return the CPU seconds of all commands run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@torch.no_grad()
def score(model: Model) -> dict[str, Any]:
    """Return the model's numbers on the test images, each followed by its baselines."""
    train, test = digits(valid=150, test=360).split("train"), digits(valid=150, test=360).split("test")
    x, seen = test.pixels(), train.pixels()
    metrics, mean = validate(model, test, Rng(0)), seen.mean(0)
    row: dict[str, Any] = {}
    if isinstance(model, Reconstructs):
        row["mse"] = float((model.reconstruct(x) - x).square().mean())
        row["mean_image"] = float((x - mean).square().mean())
    if isinstance(model, Reconstructs) and isinstance(model, Encodes):
        code = min(model.encode(x[:1]).shape[1], x[0].numel())
        row |= pca_baseline(seen.flatten(1), x.flatten(1), code)
    noise = getattr(model, "noise", None)
    if noise is not None and "mse" in metrics and isinstance(model, Reconstructs):
        noisy = noise(x, Rng(2))
        row["denoised"] = float((model.reconstruct(noisy) - x).square().mean())
        row["affine"] = float((affine_denoiser(noise, seen, noisy) - x.flatten(1)).square().mean())
    if model.nll_metric:
        row["nll_metric"] = model.nll_metric
        frequency = (seen.sum(0) + 1) / (len(seen) + 2)
        row["nll"] = metrics[model.nll_metric.removeprefix("val/")]
        row["independent"] = float(torch.nn.functional.binary_cross_entropy(frequency.expand_as(x), x) * x[0].numel())
    if isinstance(model, Classifies):
        row["error"] = metrics["error"]
        row["most_frequent"] = float((test.labels != train.labels.mode().values).float().mean())
    if "log_ratio" in metrics:
        row["log_ratio"] = metrics["log_ratio"]
    if isinstance(model, Samples) and not isinstance(model, Reconstructs):
        row["energy_distance"] = float(energy_distance(x, model.sample(len(x), rng=Rng(1))))
        row["of_mean_image"] = float(energy_distance(x, mean.expand_as(x)))
    return row


def affine_denoiser(noise: torch.nn.Module, seen: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
    """Return what the best affine map of 50 noisy copies of the training images makes of other noisy images."""
    copies = torch.cat([noise(seen, Rng(3).fork(i)) for i in range(50)])
    with_one = [torch.nn.functional.pad(images.flatten(1), (0, 1), value=1.0) for images in (copies, noisy)]
    return with_one[1] @ torch.linalg.lstsq(with_one[0], seen.flatten(1).repeat(50, 1)).solution


def pca_baseline(train: torch.Tensor, x: torch.Tensor, size: int) -> dict[str, float]:
    """Return the number of components (`size`, at most the rank of `train`) and the MSE on `x`, both [N, pixels]."""
    mean = train.mean(0)
    centred = (train - mean).double()
    size = min(size, int(torch.linalg.matrix_rank(centred)))
    basis = torch.linalg.svd(centred, full_matrices=False)[2][:size]
    centred = (x - mean).double()
    return {"components": size, "pca": float((centred @ basis.T @ basis - centred).square().mean())}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the measurements as a Markdown table."""
    lines = ["| model | CPU s | epochs × batch | what | model | baselines |", "|---|---|---|---|---|---|"]
    for row in rows:
        parts = []
        if "mse" in row:
            pca = f", PCA-{row['components']} {digits_of(row['pca'])}" if "pca" in row else ""
            parts.append(("MSE", digits_of(row["mse"]), f"mean image {digits_of(row['mean_image'])}{pca}"))
        if "denoised" in row:
            parts.append(("MSE of noisy images", digits_of(row["denoised"]), f"affine {digits_of(row['affine'])}"))
        if "nll" in row:
            name = "pseudo-NLL" if "pseudo" in row["nll_metric"] else "NLL"
            parts.append((f"{name}, nats", f"{row['nll']:.2f}", f"independent pixels {row['independent']:.2f}"))
        if "error" in row:
            parts.append(("error, %", f"{100 * row['error']:.1f}", f"most frequent {100 * row['most_frequent']:.1f}"))
        if "log_ratio" in row:
            parts.append(("nats above the normal", f"{row['log_ratio']:.2f}", "normal 0"))
        if "energy_distance" in row:
            numbers = digits_of(row["energy_distance"]), f"mean image {digits_of(row['of_mean_image'])}"
            parts.append(("energy distance", *numbers))
        head = [f"`{row['model']}`", f"{row['cpu_seconds']:.0f}", f"{row['epochs']} × {row['batch']}"]
        for what in parts:
            lines.append(f"| {' | '.join([*head, *what])} |")
            head = ["", "", ""]
    return "\n".join(lines)


def digits_of(value: float) -> str:
    """Return a number in three significant digits."""
    return f"{value:.1g}" if value < 1e-6 else f"{value:.{2 - math.floor(math.log10(value))}f}"


if __name__ == "__main__":
    main(sys.argv[1:])
