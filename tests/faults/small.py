"""Small runs on digits, and whether two of them are the same but for the clock."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

DIGITS = ("dataset=digits", "device=cpu", "device.threads=1", "batch_size=256")
NARROW = ("model.encoder.widths=[32]", "model.decoder.widths=[32]", "model.code=8")
MODELS = {
    "undercomplete": (*NARROW, "epochs=6"),
    "vae": (*NARROW, "epochs=6"),
    "gan": ("model.generator.widths=[16]", "model.discriminator.widths=[16]", "model.code=8", "epochs=6"),
    "rbm": ("model.hidden=16", "model.persistent=16", "model.sample_steps=5", "epochs=6"),
    "stacked_dae": ("model.widths=[16,12]", "model.pretrain_epochs=2", "epochs=3"),
}


def settings(model: str) -> list[str]:
    """Return the settings of a small net of a kind."""
    return [f"model={model}", *DIGITS, *MODELS[model]]


def words(model: str, folder: Path) -> list[str]:
    """Return what trains a small net of a kind in a folder."""
    return ["train", *settings(model), f"hydra.run.dir={folder}"]


def check_same(run: Path, other: Path) -> None:
    """Assert that two runs agree bit for bit, in weights, optimizers, generators, metrics and curves."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = (torch.load(one / "checkpoints" / name, weights_only=True) for one in (run, other))
        assert difference(timeless(ours), timeless(theirs)) is None, name
    assert rows(run) == rows(other)
    assert curves(run) == curves(other)
    ours, theirs = (timeless(json.loads((one / "metrics.json").read_text())) for one in (run, other))
    assert ours == theirs
    ours, theirs = (json.loads((one / "run.json").read_text()) for one in (run, other))
    assert all(ours[key] == theirs[key] for key in ("status", "objective", "epochs", "error", "seed", "choices"))
    assert ours["status"] == "done"


def timeless(node: Any) -> Any:
    """Return a tree of dicts without the seconds."""
    return {k: timeless(v) for k, v in node.items() if k != "seconds"} if isinstance(node, dict) else node


def difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """Return where two trees of tensors, numbers and texts differ first; None if they are equal to the bit."""
    if isinstance(ours, torch.Tensor):
        same = isinstance(theirs, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        return None if same else path
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f"{path}: {sorted(map(str, ours.keys() ^ theirs.keys()))}"
        return next(filter(None, (difference(ours[k], theirs[k], f"{path}/{k}") for k in ours)), None)
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next(filter(None, (difference(a, b, f"{path}/{i}") for i, (a, b) in pairs)), None)
    return None if ours == theirs else path


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the seconds; asserts that each epoch has one, in order."""
    with (run / "metrics.csv").open(newline="") as file:
        found = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    assert [int(row["epoch"]) for row in found] == list(range(1, len(found) + 1))
    return found


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of all scalars that TensorBoard finds, by tag, without the seconds; asserts as `rows`."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "time/seconds"]
    assert [event.step for event in events.Scalars("time/seconds")] == list(range(1, len(rows(run)) + 1))
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    pictures = {
        tag: [(one.step, one.encoded_image_string) for one in events.Images(tag)] for tag in events.Tags()["images"]
    }
    return {**found, **pictures}
