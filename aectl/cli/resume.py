"""aectl train resume=RUN: the config that the run was started with, a few keys that may change, its own folder."""

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
from aectl.config.did_you_mean import nearest_names
from aectl.config.literal import literal, quoted
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
from aectl.config.schema import SCHEMAS
from aectl.config.signature import sign
from aectl.config.untrusted_files import check_links, read_plain
from aectl.runs.run import OUTPUTS, Run, find
from aectl.system.machine import usable_cores

TRAIN_KEYS = {one.name for one in fields(SCHEMAS["train"])}
KEPT = ("threads", "precision")
"""What a run found out of its device: it goes on to the bit only so, since sums depend on how threads share them."""


MOST_PROCESSES = 16
"""That a stored config may have started here without the user's word."""
OPTION = re.compile(r"[\w./@+-]+")
"""The name of an option: no text that Hydra would make something else of."""


def asked(overrides: Sequence[str]) -> bool:
    """Return whether the overrides ask to go on with a run."""
    return any(override_key(o) == "resume" and override_value(o) != "null" for o in overrides)


def sweep(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags and overrides that started a sweep, to be composed anew in its own folder.

    Raises ConfigError if there is no such sweep, or if a key is typed that would make it another one.
    """
    # Imported here: every command asks whether a run is to go on, and few go on with a sweep.
    from aectl.config.removed import replace_removed
    from aectl.config.stored_overrides import check_words, paths_in
    from aectl.sweep.plan import check_working_folder, command, content, is_own, read

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
    if not folder.exists() and Path(name).name == name and (called := OUTPUTS / "multirun" / name).is_dir():
        folder = called.absolute()
    check_links(folder)
    flags, stored = split_flags(replace_removed(command(folder)))
    # What is typed anew, or given by the folder itself, takes the place of what is stored.
    replaced = {"hydra.sweep.dir", *map(override_key, others), *(LAUNCHERS[override_key(other)] for other in others)}
    stored = [word for word in stored if override_key(word) not in replaced]
    check_working_folder(folder, stored)
    owned = is_own(folder)
    is_typed_here = owned and content(folder)["cwd"] == str(Path.cwd())
    if not is_typed_here:
        signatures = {path: sign("path", path) or "" for path in paths_in(stored)} if owned else {}
        for line in ([*flags, *stored], *(job.overrides for job in read(folder))):
            check_words(replace_removed(line), folder, trust, signatures)
    TRUST.set(tuple(trust))
    IMPORTS_HERE.set(is_typed_here or any(not is_path(word) for word in trust))
    return flags, [*stored, *others, f"hydra.sweep.dir={quoted(str(folder))}"]


def latest_sweep() -> Path:
    """Return the folder of the sweep that was started last of those in outputs/; raises ConfigError without one."""
    from aectl.runs.jobs import PLAN

    found = sorted(OUTPUTS.glob(f"**/{PLAN}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"no sweep in {OUTPUTS.absolute()} yet; aectl train -m makes one")
    return found[-1].parent.absolute()


def prepare(overrides: Sequence[str]) -> list[str]:
    """Store the run's config for conf/resume.yaml to take up; return the overrides without resume= itself.

    Raises ConfigError if there is no such run, or if a key is typed that would make it another run.
    """
    name = [override_value(o) for o in overrides if override_key(o) == "resume"][-1]
    others = [o for o in overrides if override_key(o) != "resume"]
    for other in others:
        if not may_change_on_resume(other):
            if override_key(other) not in TRAIN_KEYS and (near := nearest_names(override_key(other), RESUME_KEYS)):
                raise ConfigError(f"no key '{override_key(other)}'; did you mean {near[0]}={override_value(other)}?")
            raise ConfigError(
                f"{override_key(other)} cannot change in a resumed run; "
                f"{', '.join(RESUME_KEYS[:-1])} and device.* can\n"
                f"  a new run from its weights: aectl train … {shlex.join([f'init_from={name}', other])}"
            )
    run = Run(find(name).absolute())
    check_links(run.folder)
    config = stored_config(run, trusted_names(others))
    check_count(config, others)
    typed = {override_key(other) for other in others}
    if "steps" in typed and "epochs" not in typed:
        config.epochs = None
    ConfigStore.instance().store(name="resumed_run", node=config)
    return others


def check_count(config: DictConfig, typed: Sequence[str]) -> None:
    """Raise ConfigError if a stored config, and not the user, asks for more processes than this machine has use for."""
    count, most = OmegaConf.select(config, "device.count"), max(MOST_PROCESSES, usable_cores())
    if isinstance(count, int) and count > most and "device.count" not in map(override_key, typed):
        raise ConfigError(f"the stored config asks for {count} processes: type device.count={count}, or fewer")


def stored_config(run: Run, trust: Sequence[str] = ()) -> DictConfig:
    """Return the run's config as it was last started, with what Hydra needs to go on in the run's folder."""
    config = run.config(trust)
    with open_dict(config):
        # Not the run's own word, but the user's alone, decides on Hydra's settings, on what else to compose, on whom to
        # trust, and on whether changed data will do.
        for name in ("hydra", "defaults", "trust", "data"):
            config.pop(name, None)
        config.resume = literal(str(run.folder))
        for name in KEPT if isinstance(config.get("device"), DictConfig) else ():
            if (value := (run.record.get("device") or {}).get(name)) is not None:
                OmegaConf.update(config, f"device.{name}", value, force_add=True)
        config.hydra = {
            "run": {"dir": literal(str(run.folder))},
            "runtime": {"choices": stored_choices(run)},
        }
    return config


def stored_choices(run: Run) -> dict[str, Any]:
    """Return the options that the run was composed of, by group; none where they were not kept."""
    path = run.folder / ".hydra" / "hydra.yaml"
    try:
        found = read_plain(path)
        choices = found["hydra"]["runtime"]["choices"]
        pairs = [(str(group), option) for group, option in choices.items()]
    except (ConfigError, KeyError, TypeError, AttributeError):
        return {}
    return {g: o for g, o in pairs if not g.startswith("hydra/") and (o is None or OPTION.fullmatch(str(o)))}


def trusted_names(overrides: Sequence[str]) -> list[str]:
    """Return the modules and paths in the overrides `trust=`."""
    return [name for one in overrides if override_key(one) == "trust" for name in list_items(override_value(one))]
