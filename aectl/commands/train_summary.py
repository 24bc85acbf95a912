"""Write the summary of `aectl train`: time, best objective, and comparison with cheap baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aectl.runs.run import Run
from aectl.system.terminal import first_line_of, format_duration, format_significant
from aectl.training.baselines import Baseline, compute_baselines
from aectl.training.metrics_csv import METRICS_CSV, read_metrics_csv
from aectl.training.step_cost import count_parameters
from aectl.training.trainer import Trainer

UNITS = {"mse": "per pixel", **dict.fromkeys(("nll", "kl", "negative_elbo", "pseudo_nll", "classification"), "nats")}
"""Units of metrics that mean the same for all models. The unit of a loss belongs to the model."""
SHARES = ("error",)
"""Metrics printed as percentages."""


def summarise_training(trainer: Trainer, run: Run) -> list[str]:
    """Return the summary of a finished run, in lines of at most 80 characters."""
    rows = read_metrics_csv(run.folder / METRICS_CSV)[1]
    spent = format_duration(sum(float(row["seconds"]) for row in rows if row.get("seconds")))
    parameters, device = f"{count_parameters(trainer.model.parameters()):,} parameters", trainer.device
    lines = [
        f"{parameters}, {trainer.epoch} epoch{'s' * (trainer.epoch != 1)} in {spent}",
        f"device {device.torch}, {device.precision}, device.threads={device.threads}",
    ]
    objective = trainer.objective
    lines.append(
        f"best {objective} {format_metric(trainer, objective, trainer.best_value)} (epoch {trainer.best_epoch})"
    )
    best = next((row for row in rows if row["epoch"] == str(trainer.best_epoch)), {})
    try:
        return [*lines, *compare_with_baselines(trainer, best)]
    except Exception as error:
        # A user's model may raise any error here, and the run is already saved.
        return [*lines, f"     no comparison with baselines: {type(error).__name__}: {first_line_of(error)}"]


def compare_with_baselines(trainer: Trainer, best: Mapping[str, str]) -> list[str]:
    """Return a line for each baseline whose metric was recorded in the best epoch."""
    lines = []
    for baseline in compute_baselines(trainer):
        if not (text := best.get(baseline.metric)):
            continue
        value = float(text)
        ours = format_metric(trainer, baseline.metric, value)
        theirs = format_metric(trainer, baseline.metric, baseline.value).removesuffix(" per pixel")
        lines.append(f"     {baseline.metric} {ours}; {baseline.name} {theirs}{format_gain(baseline, value)}")
    return lines


def format_gain(baseline: Baseline, value: float) -> str:
    """Return the gain of a squared error over the baseline in dB; empty for other metrics."""
    # A user's model may return zero, NaN or infinity, which have no gain in dB.
    if baseline.metric != "val/mse" or not 0 < value < math.inf or not 0 < baseline.value < math.inf:
        return ""
    gain = round(10 * math.log10(baseline.value / value), 1)
    return f" ({f'{gain:+.1f}' if gain else '0.0'} dB)"


def format_metric(trainer: Trainer, metric: str, value: float) -> str:
    """Return a metric's value with its unit."""
    name = metric.partition("/")[2]
    if name in SHARES:
        return f"{100 * value:.2f} %"
    unit = trainer.model.loss_unit if name == "loss" else UNITS.get(name, "")
    return f"{format_significant(value)} {unit}".rstrip()
