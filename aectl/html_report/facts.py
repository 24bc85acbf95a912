"""The facts of a run on its page: images, objective, device, versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from aectl.runs.metrics_json import MADE, MODEL, Rows
from aectl.system.terminal import significant

SPLITS = {"train": ", on training images", "val": ", on validation images"}
"""The images of a metric, by the prefix of its name."""


def subtitle(section: Mapping[str, Any]) -> str:
    """Return what was evaluated: `10,000 test images, checkpoint “best”, after epoch 12`, or the section's `about`."""
    if "about" in section:
        return str(section["about"])
    after = f", after epoch {section['epoch']}" if "epoch" in section else ""
    quick = f" · {section['quick']}" if section.get("quick") else ""
    return f"{measured_on(section)}, checkpoint “{section.get('checkpoint', 'best')}”{after}{quick}"


def measured_on(section: Mapping[str, Any], rows: Rows = MappingProxyType({})) -> str:
    """Return the images of an evaluation, or of a table's `rows` if they are fewer: `10,000 test images`.

    The empty text of a section that has none, such as a sweep's.
    """
    images, split = rows.get(MODEL, {}).get("images", section.get("images")), section.get("split", "")
    if "about" in section:
        return ""
    counted = f"{images:,} {split} images" if isinstance(images, int) else f"{split} images"
    return " ".join(counted.split())


def made_earlier(section: Mapping[str, Any], table: str) -> str:
    """Return when a table was made, if that was in an earlier evaluation, more than an hour before the section's."""
    made = ((section.get(MADE) or {}).get(table) or {}).get("when")
    try:
        gap = datetime.fromisoformat(str(section.get("when"))) - datetime.fromisoformat(str(made))
    except (ValueError, TypeError):
        return ""
    return f"made {when(made)}" if gap > timedelta(hours=1) else ""


def run_facts(record: Mapping[str, Any], section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of a run, as pairs of a name and a text; what is not known is left out."""
    choices = record.get("choices") or {}
    pairs = [
        ("model", choices.get("model")),
        ("data set", choices.get("dataset")),
        ("noise", choices.get("noise")),
        ("penalty", choices.get("penalty")),
        ("objective of training", objective(record)),
        ("epochs trained", record.get("epochs")),
        ("seed of training", record.get("seed")),
        ("seed of evaluation", section.get("seed")),
        ("trained", when(record.get("started"))),
        ("evaluated", when(section.get("when"))),
        ("device", device(record)),
        ("git", git(record)),
        ("versions", versions(record)),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "", "None")]


def versions(record: Mapping[str, Any]) -> str:
    """Return the packages that a run was trained with, and their versions."""
    return ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())


def objective(record: Mapping[str, Any]) -> str:
    """Return the metric that was minimised, its best value, and its images, by the prefix of its name."""
    found = record.get("objective") or {}
    name, value = str(found.get("name") or ""), found.get("value")
    if value is None:
        return name
    images = SPLITS.get(name.partition("/")[0], "")
    return f"{name} {significant(value)} in epoch {found.get('epoch')}{images}"


def when(text: Any) -> str:
    """Return a time of ISO 8601 in words, or as it is if it is no such time."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()


def device(record: Mapping[str, Any]) -> str:
    """Return where the run was trained."""
    found = record.get("device") or {}
    threads = f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}" if found.get("threads") else None
    parts = (found.get("name"), found.get("model"), found.get("precision"), threads)
    return ", ".join(str(part) for part in parts if part)


def git(record: Mapping[str, Any]) -> str:
    """Return the commit in short, and whether files differed from it."""
    found = record.get("git") or {}
    changed = ", with changes" if found.get("dirty") else ""
    return f"{str(found.get('commit'))[:10]}{changed}" if found.get("commit") else ""
