"""The run folder: its config, record and metrics, and how runs are found. Imports no torch, so that listing is fast."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from aectl.config import ConfigError
from aectl.config.did_you_mean import suggest_nearest
from aectl.config.untrusted_files import is_link_within, read_config, read_json, read_text, to_json
from aectl.runs.run_json import FORMAT, check_record
from aectl.system import atomic_write

RECORD = "run.json"
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LARGEST_REF, LARGEST_REFS = 2**12, 2**24
"""Largest size in bytes of a git file with one reference, and of packed-refs."""
GROUPS = ("model", "dataset")
"""Config groups that every run has."""
PACKAGES = ("aectl", "torch", "torchvision", "hydra-core", "omegaconf", "numpy")
OUTPUTS = Path("outputs")

COMMAND: ContextVar[tuple[str, ...]] = ContextVar("COMMAND", default=())
"""The typed words of the command line; empty in the process of a sweep's job."""


class Run:
    """A run's folder with `.hydra/`, run.json, metrics, checkpoints, figures and TensorBoard events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def record(self) -> dict[str, Any]:
        """The contents of run.json; raises ConfigError if it is damaged, missing or from a newer aectl."""
        record = read_json(self.folder / RECORD)
        check_record(record, self.folder / RECORD)
        return record

    def update(self, **entries: Any) -> None:
        """Write entries into run.json."""
        record = self.record if (self.folder / RECORD).is_file() else {}
        write_json(self.folder / RECORD, {**record, **entries})

    def config(self, trust: Iterable[str] = ()) -> DictConfig:
        """Return the config of the run's latest start; raises ConfigError if it is missing, damaged or refused."""
        path = self.latest_hydra() / "config.yaml"
        config = read_config(path, trust)
        groups = [config.get(key) for key in GROUPS if key in config]
        if "model" not in config or not all(isinstance(group, DictConfig) for group in groups):
            raise ConfigError(f"{path} is damaged: it has no model or dataset")
        if (self.folder / RECORD).is_file():
            set_chosen(config, self.record.get("chosen") or {})
        return config

    def latest_hydra(self) -> Path:
        """Return `.hydra`, or `.hydra.N` of the latest resume whose config is complete."""
        # Hydra writes the overrides last. If they are missing, the process was killed in between.
        found = [path.parent for path in self.folder.glob(".hydra.*/overrides.yaml")]
        resumes = [int(path.suffix[1:]) for path in found if path.suffix[1:].isdecimal()]
        return self.folder / (f".hydra.{max(resumes)}" if resumes else ".hydra")

    def checkpoint_path(self, name: str) -> Path:
        """Return the path of the checkpoint 'best' or 'last'."""
        return self.folder / "checkpoints" / f"{name}.pt"

    @property
    def metrics(self) -> dict[str, Any]:
        """The sections of metrics.json; empty if the file is missing or damaged."""
        try:
            found = read_json(self.folder / "metrics.json")
        except ConfigError:
            return {}
        return {name: section for name, section in found.items() if isinstance(section, dict)}

    def add_metrics(self, **sections: Any) -> None:
        """Write sections into metrics.json; other sections stay."""
        write_json(self.folder / "metrics.json", {**self.metrics, **sections})

    def record_start(
        self,
        config: DictConfig,
        choices: dict[str, str],
        overrides: list[str],
        device: dict[str, Any],
        goal: dict[str, Any],
        data: dict[str, Any],
        chosen: Mapping[str, int | list[int]],
        init_from: dict[str, str] | None = None,
        own_paths: dict[str, str] | None = None,
    ) -> None:
        """Write run.json for a run that starts or resumes now.

        `goal` has the number of epochs and the objective, `data` the name and digests of the images, `chosen` the
        values that the model's recipe set for keys left open in the config. `init_from` has the run that the initial
        weights come from and their digest. `own_paths` maps paths of the user's own data to signatures.
        """
        resumed = (self.folder / RECORD).is_file()
        known = self.record.get("data") if resumed else None
        command = shlex.join(COMMAND.get() or ("aectl", "train", *overrides))
        started = {} if resumed else {"started": now(), "command": command, "overrides": overrides}
        self.update(
            format=FORMAT,
            **started,
            **({"resumed": [*self.record.get("resumed", []), now()]} if resumed else {"choices": choices}),
            **({"earlier_data": [*self.record.get("earlier_data", []), known]} if known and known != data else {}),
            **({"init_from": init_from} if init_from else {}),
            status="running",
            error=None,
            ended=None,
            pid=os.getpid(),
            host=socket.gethostname(),
            seed=config.seed,
            device=device,
            goal=goal,
            data=data,
            chosen={**(self.record.get("chosen") or {} if resumed else {}), **chosen},
            own_paths=own_paths or {},
            versions=package_versions(),
            git=read_git_state(),
        )

    def record_end(self, status: str, error: str | None = None, **entries: Any) -> None:
        """Record the end of the run; `status` is done, interrupted or failed."""
        self.update(status=status, error=error, ended=now(), **entries)


def set_chosen(config: DictConfig, chosen: Mapping[str, int | list[int]]) -> None:
    """Set the open keys of a stored config to the values that the model's recipe chose for the run."""
    with open_dict(config):
        for name in ("epochs", "batch_size"):
            if name in chosen and config.get(name) is None:
                config[name] = chosen[name]
                if name == "epochs":
                    # From the first start on, the length is counted in epochs.
                    config.steps = None
        for key, value in chosen.items():
            owner, _, name = key.partition(".")
            if owner == "model" and name in config.model and config.model[name] is None:
                config.model[name] = value


def find_run(text: str) -> Path:
    """Return the folder of the run that `text` names: a path, the name= of a run, or 'latest' in outputs/.

    Raises ConfigError if there is no such run, its record is damaged, or a newer aectl wrote it.
    """
    if text != "latest":
        folder = Path(text).expanduser()
        if not folder.exists() and (called := find_runs_by_name(text)):
            folder = called[0]
            if len(called) > 1:
                raise ConfigError(f"'{text}' names {len(called)} runs\n  type one of {', '.join(map(str, called))}")
        if not (folder / RECORD).is_file():
            what = "holds no run.json" if folder.is_dir() else f"does not exist{suggest_run(text)}"
            if (folder / ".hydra").is_dir():
                what += "; it was stopped before its first step: run its command again"
            raise ConfigError(f"'{text}' is not a run: the folder {what}")
    elif not (runs := list(iterate_runs())):
        raise ConfigError(f"no run in {OUTPUTS.absolute()} yet; aectl train makes one")
    else:
        folder = max(runs, key=last_start)
    # Raises ConfigError for a damaged record, in every command.
    _ = Run(folder).record
    return folder


def find_runs_by_name(name: str) -> list[Path]:
    """Return the folders in outputs/ of the runs with this `name=`; empty if `name` is a path."""
    return [folder for folder in iterate_runs() if folder.name == name] if Path(name).name == name else []


def suggest_run(name: str) -> str:
    """Return `; did you mean 'X'?` with the run in outputs/ whose name is nearest to `name`, if one is near."""
    return suggest_nearest(name, {folder.name for folder in iterate_runs()})


def last_start(folder: Path) -> str:
    """Return the time of a run's last start or resume; an empty string if its record is damaged."""
    try:
        record = read_json(folder / RECORD)
        return str([record.get("started", ""), *record.get("resumed", [])][-1])
    except (ConfigError, TypeError):
        return ""


def iterate_runs(root: Path = OUTPUTS) -> Iterable[Path]:
    """Yield the folders of all runs under `root`, including those in sweeps."""
    yield from sorted(path.parent for path in root.glob(f"**/{RECORD}"))


def is_alive(pid: int | None, host: str | None = None) -> bool:
    """Return whether another process with this id runs on this machine; False for other hosts."""
    if not pid or pid == os.getpid() or host not in (None, socket.gethostname()):
        return False
    return atomic_write.is_alive(pid)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    with atomic_write.write_atomically(path) as file:
        file.write(to_json(content).encode())


def now() -> str:
    """Return the current UTC time in ISO 8601 with microseconds."""
    return datetime.now(timezone.utc).isoformat()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of aectl's checkout, else the commit of the working folder, else None.

    The git command only runs in aectl's checkout. In an untrusted folder, the git config could run programs
    (core.fsmonitor, filters).
    """
    try:
        folder = Path(__file__).parent
        commit = run_git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(run_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        found = read_commit(Path.cwd())
        return {"commit": found} if found else None


def read_commit(folder: Path) -> str | None:
    """Return the commit checked out in a folder or one of its parents, read from .git; None without a repository."""
    place = next((above / ".git" for above in (folder, *folder.parents) if (above / ".git").is_dir()), None)
    if place is None:
        return None
    try:
        head = read_text(place / "HEAD", LARGEST_REF).strip()
        if not head.startswith("ref: "):
            return head if COMMIT.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        # A branch has its own file, or a line in packed-refs.
        loose = place / name
        if loose.is_file() and is_link_within(loose, place.resolve()):
            found = read_text(loose, LARGEST_REF).strip()
        else:
            lines = read_text(place / "packed-refs", LARGEST_REFS).splitlines()
            found = next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except (OSError, ValueError, ConfigError):
        return None
    return found if COMMIT.fullmatch(found) else None


def run_git(folder: Path, *arguments: str) -> str:
    """Return the output of a git command."""
    command = ["git", "-C", str(folder), *arguments]
    output = subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
    return output.decode("utf-8", "replace").strip()
