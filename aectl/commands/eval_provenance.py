"""Record the origin of each table in metrics.json: weights, settings and time.

A section of metrics.json has the origins by table under `made`. A table is marked stale there if the checkpoint has
changed since.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from aectl.commands.eval_columns import add_descriptions
from aectl.config import ConfigError, to_plain
from aectl.config.schema import CHOICES
from aectl.config.untrusted_files import SparseFileError, file_digest
from aectl.densities import CodeDensities
from aectl.evaluation.baseline_cache import VERSION
from aectl.evaluation.registry import SETTINGS
from aectl.runs.metrics_json import find_damage, tables_of
from aectl.runs.run import Run, find_run, now, package_versions

CHECKPOINTS = CHOICES["checkpoint"]


def section_name(config: DictConfig) -> str:
    """Return the name of the evaluation's section in metrics.json, e.g. `test` or `test_quick`."""
    return f"{config.split}_quick" if config.quick else str(config.split)


def stored_section(run: Run, config: DictConfig) -> dict[str, Any]:
    """Return the section of metrics.json with stale tables marked; empty if it is missing or damaged."""
    section = run.metrics.get(section_name(config), {})
    if not tables_of(section) or find_damage(section):
        return {}
    section = add_descriptions(run, section)
    return mark_stale({**section, "made": {**first_origins(section), **section.get("made", {})}}, run)


def first_origins(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return partial origins for the tables of a section from an earlier version, which stores none."""
    known = {key: section[key] for key in ("checkpoint", "epoch", "when") if key in section}
    return {name: dict(known) for name in tables_of(section)}


def weights_digest(run: Run, checkpoint: str) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a checkpoint; empty if the file is missing."""
    path = run.checkpoint_path(checkpoint)
    try:
        # Reading a pipe, in an untrusted folder, would never end.
        return file_digest(path) if path.is_file() else ""
    except (OSError, SparseFileError):
        return ""


def table_settings(table: str, config: DictConfig) -> str:
    """Return the settings that a table depends on, e.g. `seed=0 nll_images=1000 nll_samples=1000`."""
    found = {key: config[key] for key in ("seed", *SETTINGS.get(table, ()))}
    if found.get("judge", "") is None:
        del found["judge"]
    elif "judge" in found:
        found["judge"] = judge_name(config)
    if not found.get("sampler"):
        found = {key: value for key, value in found.items() if key not in ("sampler", "components")}
    if config.data == "changed":
        found["data"] = config.data
    return " ".join(f"{key}={value}" for key, value in found.items())


def find_judge(config: DictConfig) -> Run:
    """Return the run that `judge` names; raises ConfigError if there is none."""
    try:
        return Run(find_run(config.judge))
    except ConfigError as error:
        raise ConfigError(f"judge: {error}") from error


def judge_name(config: DictConfig) -> str:
    """Return the name of the run that `judge` names with the first digits of the digest of its best checkpoint."""
    run = find_judge(config)
    name = re.sub(r"[^\w.+-]+", "_", run.folder.absolute().name)[:40]
    return f"{name}-{weights_digest(run, 'best')[:8]}"


def fingerprint(table: str, run: Run, config: DictConfig, weights: str) -> str:
    """Return a digest of all that determines a table: weights, data, settings and versions."""
    content = [table, weights, table_settings(table, config), identify_data(run, config), package_versions(), VERSION]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def identify_data(run: Run, config: DictConfig) -> Any:
    """Return what identifies the run's data: the digests in its record, else size and time of the files."""
    if config.data == "changed":
        return config.data
    known = run.record.get("data") or {}
    return {key: value for key, value in known.items() if key.endswith(("digest", "labels"))} or list_data_files(run)


def open_densities(run: Run, config: DictConfig) -> CodeDensities:
    """Return the densities of the codes of a run, kept in its folder unless its data may have changed."""
    folder = None if config.data == "changed" else run.folder / "densities"
    source = [weights_digest(run, config.checkpoint), identify_data(run, config)]
    return CodeDensities(folder, json.dumps(source, sort_keys=True), config.seed)


def list_data_files(run: Run) -> list[Any]:
    """Return path, size and modification time of the user's files that the run reads."""
    try:
        dataset = to_plain(run.config()["dataset"])
    except ConfigError:
        return []
    paths = [dataset[key] for key in ("path", "test_path") if isinstance(dataset.get(key), str)]
    found = []
    for path in paths:
        try:
            state = Path(path).expanduser().stat()
            found.append([path, state.st_size, state.st_mtime_ns])
        except OSError:
            found.append([path, None, None])
    return found


def build_origin(table: str, run: Run, config: DictConfig, weights: str, epoch: int, seconds: float) -> dict[str, Any]:
    """Return the origin of a new table for `made`."""
    return {
        "checkpoint": config.checkpoint,
        "epoch": epoch,
        "weights": weights,
        "settings": table_settings(table, config),
        "fingerprint": fingerprint(table, run, config, weights),
        "when": now(),
        "seconds": round(seconds, 2),
    }


def outdated_tables(section: Mapping[str, Any], run: Run, config: DictConfig, tables: Iterable[str]) -> list[str]:
    """Return the tables that are missing in the section, or have other weights, data, settings or versions."""
    made, weights = section.get("made", {}), weights_digest(run, config.checkpoint)
    return [
        name
        for name in tables
        if not weights or made.get(name, {}).get("fingerprint") != fingerprint(name, run, config, weights)
    ]


def mark_stale(section: dict[str, Any], run: Run, epoch: int | None = None) -> dict[str, Any]:
    """Return the section with a text `stale` in the origin of each table whose checkpoint has changed.

    Sections of earlier versions do not record weights; for these the recorded epoch is compared with `epoch`, if given.
    """
    present: dict[str, str] = {}
    made = {}
    for name, one in section["made"].items():
        checkpoint = str(one.get("checkpoint"))
        if checkpoint not in present:
            present[checkpoint] = weights_digest(run, checkpoint) if checkpoint in CHECKPOINTS else ""
        made[name] = {key: value for key, value in one.items() if key != "stale"}
        known = one.get("weights")
        changed = known != present[checkpoint] if known else epoch is not None and one.get("epoch") != epoch
        if changed:
            made[name]["stale"] = (
                f"{checkpoint}.pt has changed since epoch {one.get('epoch')}, when this table was made"
            )
    return {**section, "made": made}
