"""What the head of the page says of a run, in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aectl.terminal import significant


def subtitle(section: Mapping[str, Any]) -> str:
    """Return what was evaluated: `10,000 test images, checkpoint best of epoch 12`, or what the section says."""
    if "about" in section:
        return str(section["about"])
    images, split = section.get("images"), section.get("split", "")
    counted = f"{images:,} {split} images".replace("  ", " ") if isinstance(images, int) else f"{split} images"
    after = f", after epoch {section['epoch']}" if "epoch" in section else ""
    return f"{counted.strip()}, checkpoint “{section.get('checkpoint', 'best')}”{after}"


def facts(record: Mapping[str, Any], section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of a run, as pairs of a name and words; nothing of what is not known."""
    choices = record.get("choices") or {}
    pairs = [
        ("model", choices.get("model")),
        ("data set", choices.get("dataset")),
        ("noise", choices.get("noise")),
        ("penalty", choices.get("penalty")),
        ("objective", objective(record)),
        ("epochs trained", record.get("epochs")),
        ("seed of training", record.get("seed")),
        ("seed of evaluation", section.get("seed")),
        ("trained", when(record.get("started"))),
        ("evaluated", when(section.get("when"))),
        ("device", device(record)),
        ("git", git(record)),
        ("versions", ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "", "None")]


def objective(record: Mapping[str, Any]) -> str:
    """Return what was minimised, how far, and when."""
    found = record.get("objective") or {}
    value = found.get("value")
    if value is None:
        return str(found.get("name") or "")
    return f"{found.get('name')} {significant(value)} in epoch {found.get('epoch')}"


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
