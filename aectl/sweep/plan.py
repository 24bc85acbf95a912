"""Reads and writes sweep.json, which lists the jobs of a sweep and the command that started it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aectl.config import ConfigError
from aectl.config.absolute_paths import PATH_KEYS as DATA_PATHS
from aectl.config.folder_names import make_slug
from aectl.config.removed import replace_removed
from aectl.config.untrusted_files import file_digest, read_json
from aectl.config.user_signature import is_signed, sign
from aectl.runs.run import COMMAND, RECORD, Run, write_json
from aectl.runs.run_json import check_format
from aectl.runs.sweep_membership import PLAN
from aectl.system.terminal import display_path

FORMAT = 1
"""Version of the format of sweep.json that this version writes."""
MAX_JOB_NUMBER = 10**9
"""Upper limit, exclusive, of the number of a job."""


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep, whether it ran or not: its number, its overrides and its folder."""

    number: int
    overrides: tuple[str, ...]
    folder: Path

    @property
    def status(self) -> str:
        """The status of the job's run: done, failed, interrupted or running; empty if it has not started."""
        return str(Run(self.folder).record.get("status", "")) if (self.folder / RECORD).is_file() else ""

    @property
    def can_resume(self) -> bool:
        """Whether the job has a checkpoint to resume from."""
        run = Run(self.folder)
        return bool(self.status) and any(run.checkpoint_path(name).is_file() for name in ("last", "before"))

    def record_failure(self, error: str) -> None:
        """Write a run.json that says why the job failed, unless the job wrote one itself."""
        if not self.status:
            self.folder.mkdir(parents=True, exist_ok=True)
            Run(self.folder).record_end("failed", error=error, overrides=list(self.overrides))


def plan_jobs(folder: Path, jobs: Iterable[Sequence[str]], first: int = 0) -> list[PlannedJob]:
    """Return the jobs of a sweep in `folder`, numbered from `first`; each gets a subfolder `<number>-<slug>`."""
    numbered = enumerate(jobs, first)
    return [PlannedJob(i, tuple(words), folder / f"{i}-{make_slug(words)}") for i, words in numbered]


def restore_folders(jobs: Iterable[PlannedJob], folder: Path) -> list[PlannedJob]:
    """Return the jobs; one that an older version planned as `sweep=fused` keeps the folder of that plan.

    A folder's name contains the option, so a new plan would give the job another folder.
    """
    stored = {(job.number, tuple(replace_removed(job.overrides))): job for job in read_planned_jobs(folder)}
    return [stored.get((job.number, job.overrides), job) for job in jobs]


def write_plan(folder: Path, words: Sequence[str], jobs: Sequence[PlannedJob]) -> None:
    """Add jobs to sweep.json; `words` are the arguments of the command that started the sweep.

    Raises ConfigError if sweep.json has another job under the same number, or if the weights of a run that `init_from`
    names have changed since the sweep started.
    """
    known = {job.number: job for job in read_planned_jobs(folder)}
    for job in jobs:
        before = known.setdefault(job.number, job)
        if before.overrides != job.overrides:
            was, now = (
                [w for w in one.overrides if w not in other.overrides] for one, other in ((before, job), (job, before))
            )
            raise ConfigError(
                f"job {job.number} of {display_path(folder)} was {' '.join(was)} and would now be {' '.join(now)}\n"
                "  its config has changed since the sweep started; give a new sweep another name"
            )
    stored = read_sweep_json(folder) if (folder / PLAN).is_file() else {}
    weights = {**stored.get("init_from", {}), **hash_initial_weights(jobs)}
    for run, digest in stored.get("init_from", {}).items():
        if weights[run] != digest:
            raise ConfigError(
                f"init_from: the weights of {run} have changed since the sweep started\n"
                "  earlier jobs started from the old ones: start a new sweep"
            )
    entry = {
        "format": FORMAT,
        "typed": stored.get("typed") or list(COMMAND.get()),
        "command": list(words),
        "cwd": stored.get("cwd") or str(Path.cwd()),
        "init_from": weights,
        "jobs": [{"number": job.number, "overrides": list(job.overrides)} for job in known.values()],
    }
    write_json(folder / PLAN, {**entry, "signature": sign("sweep", str(folder.resolve()), entry)})


def hash_initial_weights(jobs: Iterable[PlannedJob]) -> dict[str, str]:
    """Return 16 hexadecimal digits of the SHA-256 of the best weights of each run that an `init_from` names.

    Runs without weights are left out: the jobs that need them report it.
    """
    found = {}
    for word in {word for job in jobs for word in job.overrides}:
        key, _, value = word.lstrip("+").partition("=")
        path = Run(Path(value.strip("'\""))).checkpoint_path("best")
        if key == "init_from" and path.is_file():
            found[value.strip("'\"")] = file_digest(path)
    return found


def read_planned_jobs(folder: Path) -> list[PlannedJob]:
    """Return the jobs that sweep.json lists, none if there is no such file."""
    if not (folder / PLAN).is_file():
        return []
    return [plan_jobs(folder, [job["overrides"]], job["number"])[0] for job in read_sweep_json(folder)["jobs"]]


def read_command(folder: Path) -> list[str]:
    """Return the arguments that started the sweep in a folder; raises ConfigError if it is not a sweep."""
    if not (folder / PLAN).is_file():
        what = f"holds no {PLAN}" if folder.is_dir() else "does not exist"
        raise ConfigError(f"'{display_path(folder)}' is not a sweep: the folder {what}")
    return list(read_sweep_json(folder)["command"])


def check_working_folder(folder: Path, words: Iterable[str]) -> None:
    """Raise ConfigError if overrides contain a data path relative to another working folder than this one."""
    started_in = read_sweep_json(folder)["cwd"]
    if not started_in or Path(started_in) == Path.cwd():
        return
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        group, _, leaf = key.rpartition(".")
        if group == "dataset" and leaf in DATA_PATHS and not Path(value.strip("'\"")).expanduser().is_absolute():
            raise ConfigError(
                f"{word} is relative to the folder that the sweep was started in\n  first: cd {shlex.quote(started_in)}"
            )


def read_typed_command(folder: Path) -> str:
    """Return the command that started the sweep, as typed and quoted for a shell; empty without a sweep.json."""
    if not (folder / PLAN).is_file():
        return ""
    found = read_sweep_json(folder)
    # Sweeps of older versions store only the arguments of Hydra. A foreign sweep.json may name another program.
    is_ours = found["typed"][:2] == ["aectl", "train"]
    return shlex.join(found["typed"] if is_ours else ["aectl", "train", *found["command"]])


def is_own_sweep(folder: Path) -> bool:
    """Return whether sweep.json has this user's signature, made for a sweep in this folder."""
    found = read_json(folder / PLAN)
    signature = found.pop("signature", None)
    return is_signed(signature, "sweep", str(folder.resolve()), found)


def read_sweep_json(folder: Path) -> dict[str, Any]:
    """Return the content of sweep.json; raises ConfigError if it cannot be read or a value has a wrong type."""
    found = read_json(folder / PLAN)
    check_format(found, FORMAT, folder / PLAN)
    entry = {"typed": [], "cwd": "", "init_from": {}, **{key: value for key, value in found.items() if value}}
    jobs = found.get("jobs")
    checks = {
        "typed": is_text_list(entry["typed"]),
        "command": is_text_list(found.get("command")),
        "cwd": isinstance(entry["cwd"], str),
        "init_from": isinstance(entry["init_from"], dict) and is_text_list(list(entry["init_from"].values())),
        "jobs": isinstance(jobs, list) and all(map(is_job_entry, jobs)),
    }
    for key, fits in checks.items():
        if not fits:
            raise ConfigError(f"{folder / PLAN} is damaged: its '{key}' is not what aectl writes there")
    return {key: found[key] if key in ("command", "jobs") else entry[key] for key in checks}


def is_text_list(value: Any) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def is_job_entry(value: Any) -> bool:
    """Return whether a value describes a job, by its number and its overrides."""
    if not isinstance(value, dict) or not is_text_list(value.get("overrides")):
        return False
    number = value.get("number")
    return type(number) is int and 0 <= number < MAX_JOB_NUMBER
