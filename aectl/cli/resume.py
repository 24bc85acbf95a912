"""`aectl train resume=RUN`: restores the config of a stored run or sweep, of which only a few keys may change."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from aectl.config import ConfigError
from aectl.config.allowlist import is_path
from aectl.config.did_you_mean import did_you_mean, find_nearest
from aectl.config.overrides import (
    IMPORTS_HERE,
    LAUNCHERS,
    RESUME_KEYS,
    TRUST,
    list_items,
    may_change_on_resume,
    override_key,
    override_value,
    split_flags,
)
from aectl.config.quoting import escape_interpolation, quote_override
from aectl.config.schema import SCHEMAS
from aectl.config.untrusted_files import check_links, read_plain_config
from aectl.config.user_signature import sign
from aectl.runs.run import OUTPUTS, Run, find_run
from aectl.system.machine import count_usable_cores

TRAIN_KEYS = {one.name for one in fields(SCHEMAS["train"])}
KEPT = ("threads", "precision")
"""Settings of the device that a resumed run keeps: sums depend on the number of threads, and must not change."""


MOST_PROCESSES = 16
"""Processes that a stored config may start without the user typing the number."""
OPTION = re.compile(r"[\w./@+-]+")
"""Names of options that Hydra's grammar reads as they are."""


def is_resume(overrides: Sequence[str]) -> bool:
    """Return whether the overrides resume a run."""
    return any(override_key(o) == "resume" and override_value(o) != "null" for o in overrides)


def restore_sweep(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags and overrides that started a sweep, with its folder as the sweep's folder.

    Raises ConfigError if there is no such sweep, if a typed key cannot change, or if a stored override is not allowed.
    """
    # Imported here because every command imports this module, and few resume a sweep.
    from aectl.config.removed import replace_removed
    from aectl.config.stored_overrides import check_words, iterate_paths
    from aectl.sweep.plan import check_working_folder, is_own_sweep, read_command, read_planned_jobs, read_sweep_json

    name = [override_value(o) for o in overrides if override_key(o) == "resume"][-1]
    others = [o for o in overrides if override_key(o) != "resume"]
    for other in others:
        if override_key(other) not in (*LAUNCHERS, "trust"):
            raise ConfigError(
                f"{override_key(other)} cannot change in a resumed sweep; {', '.join(LAUNCHERS)} and trust can"
            )
    trust = trusted_names(others)
    others = [other for other in others if override_key(other) != "trust"]
    folder = latest_sweep() if name == "latest" else Path(name).expanduser().absolute()
    if not folder.exists() and Path(name).name == name and (in_outputs := OUTPUTS / "multirun" / name).is_dir():
        folder = in_outputs.absolute()
    check_links(folder)
    flags, stored = split_flags(replace_removed(read_command(folder)))
    # Typed overrides, and the folder itself, replace stored ones.
    replaced = {"hydra.sweep.dir", *map(override_key, others), *(LAUNCHERS[override_key(other)] for other in others)}
    stored = [word for word in stored if override_key(word) not in replaced]
    check_working_folder(folder, stored)
    owned = is_own_sweep(folder)
    is_typed_here = owned and read_sweep_json(folder)["cwd"] == str(Path.cwd())
    if not is_typed_here:
        signatures = {path: sign("path", path) or "" for path in iterate_paths(stored)} if owned else {}
        for line in ([*flags, *stored], *(job.overrides for job in read_planned_jobs(folder))):
            check_words(replace_removed(line), folder, trust, signatures)
    TRUST.set(tuple(trust))
    IMPORTS_HERE.set(is_typed_here or any(not is_path(word) for word in trust))
    return flags, [*stored, *others, f"hydra.sweep.dir={quote_override(str(folder))}"]


def latest_sweep() -> Path:
    """Return the folder of the sweep in outputs/ that was started last; raises ConfigError if there is none."""
    from aectl.runs.sweep_membership import PLAN

    found = sorted(OUTPUTS.glob(f"**/{PLAN}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"no sweep in {OUTPUTS.absolute()} yet; aectl train -m makes one")
    return found[-1].parent.absolute()


def restore_run(overrides: Sequence[str]) -> list[str]:
    """Store the run's config, which conf/resume.yaml includes; returns the overrides without `resume=` itself.

    Raises ConfigError if there is no such run, or if a typed key cannot change.
    """
    name = [override_value(o) for o in overrides if override_key(o) == "resume"][-1]
    others = [o for o in overrides if override_key(o) != "resume"]
    for other in others:
        if not may_change_on_resume(other):
            key, value = override_key(other), override_value(other)
            if key not in TRAIN_KEYS and (near := find_nearest(key, RESUME_KEYS)):
                raise ConfigError(f"no key '{key}'{did_you_mean([f'{one}={value}' for one in near])}")
            raise ConfigError(
                f"{override_key(other)} cannot change in a resumed run; "
                f"{', '.join(RESUME_KEYS[:-1])} and device.* can\n"
                f"  a new run from its weights: aectl train … {shlex.join([f'init_from={name}', other])}"
            )
    run = Run(find_run(name).absolute())
    check_links(run.folder)
    config = stored_config(run, trusted_names(others))
    check_count(config, others)
    typed = {override_key(other) for other in others}
    if "steps" in typed and "epochs" not in typed:
        config.epochs = None
    ConfigStore.instance().store(name="resumed_run", node=config)
    return others


def check_count(config: DictConfig, typed: Sequence[str]) -> None:
    """Raise ConfigError if a stored config, rather than the user, asks for more processes than this machine can use."""
    count, most = OmegaConf.select(config, "device.count"), max(MOST_PROCESSES, count_usable_cores())
    if isinstance(count, int) and count > most and "device.count" not in map(override_key, typed):
        raise ConfigError(f"the stored config asks for {count} processes: type device.count={count}, or fewer")


def stored_config(run: Run, trust: Sequence[str] = ()) -> DictConfig:
    """Return the config that the run was last started with, set to resume in the run's own folder."""
    config = run.config(trust)
    with open_dict(config):
        # Only the user decides on Hydra's settings, on other configs to compose, on trust and on changed data.
        for name in ("hydra", "defaults", "trust", "data"):
            config.pop(name, None)
        config.resume = escape_interpolation(str(run.folder))
        for name in KEPT if isinstance(config.get("device"), DictConfig) else ():
            if (value := (run.record.get("device") or {}).get(name)) is not None:
                OmegaConf.update(config, f"device.{name}", value, force_add=True)
        config.hydra = {
            "run": {"dir": escape_interpolation(str(run.folder))},
            "runtime": {"choices": stored_choices(run)},
        }
    return config


def stored_choices(run: Run) -> dict[str, Any]:
    """Return the option of each group that the run was composed from; empty if they were not stored."""
    path = run.folder / ".hydra" / "hydra.yaml"
    try:
        found = read_plain_config(path)
        choices = found["hydra"]["runtime"]["choices"]
        pairs = [(str(group), option) for group, option in choices.items()]
    except (ConfigError, KeyError, TypeError, AttributeError):
        return {}
    return {g: o for g, o in pairs if not g.startswith("hydra/") and (o is None or OPTION.fullmatch(str(o)))}


def trusted_names(overrides: Sequence[str]) -> list[str]:
    """Return the modules and paths in the overrides `trust=`."""
    return [name for one in overrides if override_key(one) == "trust" for name in list_items(override_value(one))]
