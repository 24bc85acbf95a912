"""aectl train resume=RUN: the config that the run was started with, a few keys that may change, its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, open_dict

from aectl.cli.launch import LAUNCHERS, split_flags
from aectl.config import ConfigError
from aectl.run import OUTPUTS, Run, find

KEYS = ("epochs", "max_time", "patience", "trust", "hydra.verbose")
NODES = ("device.", "hydra.job.", "hydra.job_logging.", "hydra.hydra_logging.")
"""What may be typed beside resume=: it changes how long or where the run goes on, not what it is."""
KEPT = ("threads", "precision")
"""What a run found out of its device: it goes on to the bit only so, since sums depend on how threads share them."""


def asked(overrides: Sequence[str]) -> bool:
    """Return whether the overrides ask to go on with a run."""
    return any(key(o) == "resume" and value(o) != "null" for o in overrides)


def sweep(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags and overrides that started a sweep, to be composed anew in its own folder.

    Raises ConfigError if there is no such sweep, or if a key is typed that would make it another one.
    """
    # Imported here: every command asks whether a run is to go on, and few go on with a sweep.
    from aectl.sweep.plan import command

    name = [value(o) for o in overrides if key(o) == "resume"][-1]
    others = [o for o in overrides if key(o) != "resume"]
    for other in others:
        if key(other) not in LAUNCHERS:
            raise ConfigError(f"{key(other)} cannot change in a resumed sweep; {', '.join(LAUNCHERS)} can")
    folder = latest_sweep() if name == "latest" else Path(name).expanduser().absolute()
    flags, words = split_flags(command(folder))
    changed = {LAUNCHERS[key(other)] for other in others}
    kept = [word for word in words if key(word) not in changed]
    return flags, [*kept, *others, f"hydra.sweep.dir='{folder}'"]


def latest_sweep() -> Path:
    """Return the folder of the sweep that was started last of those in outputs/; raises ConfigError without one."""
    from aectl.sweep.plan import PLAN

    found = sorted(OUTPUTS.glob(f"**/{PLAN}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"no sweep in {OUTPUTS.absolute()} yet; aectl train -m makes one")
    return found[-1].parent.absolute()


def prepare(overrides: Sequence[str]) -> list[str]:
    """Store the run's config for conf/resume.yaml to take up; return the overrides without resume= itself.

    Raises ConfigError if there is no such run, or if a key is typed that would make it another run.
    """
    name = [value(o) for o in overrides if key(o) == "resume"][-1]
    others = [o for o in overrides if key(o) != "resume"]
    for other in others:
        if not may_change(other):
            raise ConfigError(
                f"{key(other)} cannot change in a resumed run; epochs, max_time, patience, trust and device.* can\n"
                f"  a new run from its weights: aectl train … init_from={name} {other}"
            )
    run = Run(find(name).absolute())
    ConfigStore.instance().store(name="resumed_run", node=stored_config(run))
    return others


def may_change(override: str) -> bool:
    """Return whether an override may stand beside resume=."""
    return key(override) in KEYS or key(override).startswith(NODES)


def stored_config(run: Run) -> DictConfig:
    """Return the run's config as it was last started, with what Hydra needs to go on in the run's folder."""
    config = run.config()
    with open_dict(config):
        # Not the run's own word, but the user's alone, decides on Hydra's settings and on whom to trust.
        for name in ("hydra", "trust"):
            config.pop(name, None)
        config.resume = str(run.folder)
        for name in KEPT:
            if (value := (run.record.get("device") or {}).get(name)) is not None:
                OmegaConf.update(config, f"device.{name}", value, force_add=True)
        config.hydra = {
            "run": {"dir": str(run.folder)},
            "runtime": {"choices": stored_choices(run)},
        }
    return config


def stored_choices(run: Run) -> dict[str, Any]:
    """Return the options that the run was composed of, by group; none where they were not kept."""
    path = run.folder / ".hydra" / "hydra.yaml"
    if not path.is_file():
        return {}
    choices = OmegaConf.select(OmegaConf.load(path), "hydra.runtime.choices")
    return {group: option for group, option in (choices or {}).items() if not str(group).startswith("hydra/")}


def key(override: str) -> str:
    """Return the key of an override, without the signs before it."""
    return override.lstrip("+~").partition("=")[0]


def value(override: str) -> str:
    """Return the value of an override, without quotes around it."""
    return override.partition("=")[2].strip("'\"")
