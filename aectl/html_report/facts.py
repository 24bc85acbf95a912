"""Format the facts of a run for report.html: images, objective, device, versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from aectl.runs.metrics_json import MADE, MODEL, Rows
from aectl.system.terminal import format_significant

SPLITS = {"train": ", on training images", "val": ", on validation images"}
"""Images on which a metric is computed, by the prefix of its name."""


def format_subtitle(section: Mapping[str, Any]) -> str:
    """Return the section's `about`, or e.g. `10,000 test images, checkpoint “best”, after epoch 12`."""
    if "about" in section:
        return str(section["about"])
    after = f", after epoch {section['epoch']}" if "epoch" in section else ""
    quick = f" · {section['quick']}" if section.get("quick") else ""
    return f"{format_images(section)}, checkpoint “{section.get('checkpoint', 'best')}”{after}{quick}"


def format_images(section: Mapping[str, Any], rows: Rows = MappingProxyType({})) -> str:
    """Return the images of an evaluation, or of a table's `rows` if these have fewer, e.g. `10,000 test images`.

    Returns an empty string for a section with `about`, such as a sweep's.
    """
    images, split = rows.get(MODEL, {}).get("images", section.get("images")), section.get("split", "")
    if "about" in section:
        return ""
    counted = f"{images:,} {split} images" if isinstance(images, int) else f"{split} images"
    return " ".join(counted.split())


def format_earlier_date(section: Mapping[str, Any], table: str) -> str:
    """Return when a table was computed if it was more than an hour before the section, else an empty string."""
    made = ((section.get(MADE) or {}).get(table) or {}).get("when")
    try:
        gap = datetime.fromisoformat(str(section.get("when"))) - datetime.fromisoformat(str(made))
    except (ValueError, TypeError):
        return ""
    return f"computed {format_time(made)}" if gap > timedelta(hours=1) else ""


def list_facts(record: Mapping[str, Any], section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the known facts of a run as pairs of name and value."""
    choices = record.get("choices") or {}
    pairs = [
        ("model", choices.get("model")),
        ("data set", choices.get("dataset")),
        ("noise", choices.get("noise")),
        ("penalty", choices.get("penalty")),
        ("objective of training", format_objective(record)),
        ("epochs trained", record.get("epochs")),
        ("seed of training", record.get("seed")),
        ("seed of evaluation", section.get("seed")),
        ("trained", format_time(record.get("started"))),
        ("evaluated", format_time(section.get("when"))),
        ("device", format_device(record)),
        ("git", format_git(record)),
        ("versions", format_versions(record)),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "", "None")]


def format_versions(record: Mapping[str, Any]) -> str:
    """Return the packages with which a run was trained and their versions."""
    return ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())


def format_objective(record: Mapping[str, Any]) -> str:
    """Return the objective of a run, its best value, epoch and images."""
    found = record.get("objective") or {}
    name, value = str(found.get("name") or ""), found.get("value")
    if value is None:
        return name
    images = SPLITS.get(name.partition("/")[0], "")
    return f"{name} {format_significant(value)} in epoch {found.get('epoch')}{images}"


def format_time(text: Any) -> str:
    """Return an ISO 8601 time as e.g. `3 May 2025, 14:05 UTC`, and any other text unchanged."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()


def format_device(record: Mapping[str, Any]) -> str:
    """Return the device of a run with its model, precision and threads."""
    found = record.get("device") or {}
    threads = f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}" if found.get("threads") else None
    parts = (found.get("name"), found.get("model"), found.get("precision"), threads)
    return ", ".join(str(part) for part in parts if part)


def format_git(record: Mapping[str, Any]) -> str:
    """Return the abbreviated commit, and whether files differed from it."""
    found = record.get("git") or {}
    changed = ", with changes" if found.get("dirty") else ""
    return f"{str(found.get('commit'))[:10]}{changed}" if found.get("commit") else ""
