"""The table of published rows: what each experiment promises, and what its runs came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from aectl.runs.metrics_json import format_cell
from published.experiments import Experiment
from published.results import Results, title

BEGIN, END = "<!-- published: begin -->", "<!-- published: end -->"
"""Between these lines of docs/RESULTS.md stands the table."""
HEAD = ("experiment", "measure", "ours", "published", "difference", "bound", "verdict", "device, minutes, commit")


def rows(known: Mapping[str, Experiment], results: Results) -> Iterator[tuple[str, ...]]:
    """Yield a row for each reference of each experiment's runs, and the means over seeds; else "not run"."""
    for name, one in known.items():
        runs = {variant: results.get(title(name, variant), {}) for variant in one.variants()}
        for label, reference in one.references.items():
            found = {variant: run.get("numbers", {}).get(label) for variant, run in runs.items()}
            if not any(found.values()):
                yield unknown(name, label, reference)
                continue
            for variant, numbers in found.items():
                told = title(name, variant)
                yield result(told, label, numbers, runs[variant]) if numbers else unknown(told, label, reference)
            for others, group in over_seeds(found).items():
                yield mean(title(name, others), label, group)


def over_seeds(found: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], list[Any]]:
    """Return what was measured, by what runs differ in beside the seed, where there are several seeds."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for variant, numbers in found.items():
        if numbers:
            groups.setdefault(tuple(word for word in variant if not word.startswith("seed=")), []).append(numbers)
    return {others: group for others, group in groups.items() if len(group) > 1}


def unknown(name: str, label: str, reference: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a number that has not been measured."""
    value = reference.get("value")
    text = "" if value is None else value if isinstance(value, str) else f"{value:g}"
    return (name, called(label, reference["measure"]), "", text, "", "", "not run", "")


def mean(name: str, label: str, found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the row of the mean over seeds, with the 95 % interval of Student's t; verdicts are of single runs."""
    several = {key: [one[key] for one in found] for key in ("ours", "reference", "difference") if key in found[0]}
    width = float(t.ppf(0.975, len(found) - 1)) * stdev(several["ours"]) / len(found) ** 0.5
    means = {key: fmean(values) for key, values in several.items()}
    row = {**found[0], **means, "ours_ci95": width, "bound": "", "verdict": ""}
    return (*texts(f"{name}, mean of {len(found)} seeds", label, row), "")


def result(name: str, label: str, found: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a measured number."""
    return (*texts(name, label, found), f"{run['device']}, {run['minutes']:.1f}, `{run['commit']}`")


def texts(name: str, label: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a measured number but for how it was run."""
    told = {key: " ".join(format_cell(found, key)).strip() for key in ("ours", "reference", "difference")}
    return (
        name,
        called(label, found["measure"]),
        told["ours"],
        told["reference"] or "no reference",
        told["difference"],
        str(found["bound"]),
        f"**{found['verdict']}**" if found["verdict"] in ("PASS", "FAIL") else str(found["verdict"]),
    )


def called(label: str, measure: str) -> str:
    """Return which number it is: `ais: nll`."""
    return measure if label == measure else f"{label}: {measure}"


def write(path: Path, found: Iterator[tuple[str, ...]]) -> None:
    """Put the table between the two marks of a Markdown file; raises ValueError if it has no such marks."""
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path} has no place for the table: the lines {BEGIN} and {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    lines = [HEAD, ("---",) * len(HEAD), *found]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    path.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
