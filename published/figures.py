"""Pictures of published rows: what pretraining is worth where labels are few."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from aectl.figures.style import BLUE, GREY, ORANGE, SMALL, chart, name_axes, save
from published.results import Results

LABELS = {"100": 100, "1k": 1_000, "10k": 10_000, "all": 55_000}
LINES = {"model.pretrain_epochs=8": "pretrained on all images", "model.pretrain_epochs=0": "not pretrained"}
BASELINE = "logistic regression"


def few_labels(results: Results) -> dict[str, dict[int, list[float]]]:
    """Return the test errors in % of all seeds, by what was trained and by the number of labels."""
    found: dict[str, dict[int, list[float]]] = {name: {} for name in (*LINES.values(), BASELINE)}
    for name, count in LABELS.items():
        for title, run in results.items():
            if not title.startswith(f"vincent_labels_{name} "):
                continue
            number = run["numbers"]["error"]
            line = next(text for word, text in LINES.items() if word in title.split())
            found[line].setdefault(count, []).append(number["ours"])
            found[BASELINE].setdefault(count, []).append(number["reference"])
    return found


def draw_few_labels(results: Results, path: Path) -> None:
    """Draw the mean test error over the number of labels, each seed as a dot; nothing if there are no such results."""
    found = few_labels(results)
    if not any(found.values()):
        return
    figure, axes = chart("Errors of a stack of denoising autoencoders")
    for (name, errors), colour in zip(found.items(), (BLUE, ORANGE, GREY), strict=True):
        counts = sorted(errors)
        axes.plot(counts, [fmean(errors[count]) for count in counts], color=colour, label=name)
        if name != BASELINE:
            dots = [(count, error) for count in counts for error in errors[count]]
            axes.scatter(*zip(*dots, strict=True), s=12, color=colour)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(list(LABELS.values()), [f"{count:,}" for count in LABELS.values()])
    axes.set_yticks([2, 5, 10, 20, 30], ["2", "5", "10", "20", "30"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=SMALL)
    name_axes(axes, "labelled images", "test error in %")
    save(figure, path)
