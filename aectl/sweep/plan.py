"""What a sweep is to run, in sweep.json: the words that started it, and its jobs with their folders."""

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
from aectl.config.signature import is_signed, sign
from aectl.config.untrusted_files import file_digest, read_json
from aectl.runs.jobs import PLAN
from aectl.runs.run import COMMAND, RECORD, Run, write_json
from aectl.runs.run_json import check_format
from aectl.system.terminal import display_path

FORMAT = 1
"""Of sweep.json, as this version writes it."""
LARGEST = 10**9
"""Number of a job."""


@dataclass(frozen=True)
class Planned:
    """A job before it runs: its number, the overrides that make it, and its folder."""

    number: int
    overrides: tuple[str, ...]
    folder: Path

    @property
    def status(self) -> str:
        """How the run in the folder stands: done, failed, interrupted or running; the empty text if there is none."""
        return str(Run(self.folder).record.get("status", "")) if (self.folder / RECORD).is_file() else ""

    @property
    def can_go_on(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        run = Run(self.folder)
        return bool(self.status) and any(run.checkpoint_path(name).is_file() for name in ("last", "before"))

    def fail(self, error: str) -> None:
        """Leave a record of why the job failed, if it did not come so far as to leave one itself."""
        if not self.status:
            self.folder.mkdir(parents=True, exist_ok=True)
            Run(self.folder).record_end("failed", error=error, overrides=list(self.overrides))


def plan(folder: Path, jobs: Iterable[Sequence[str]], first: int = 0) -> list[Planned]:
    """Return the jobs of a sweep in `folder`, numbered from `first`; each gets a folder of its own below."""
    numbered = enumerate(jobs, first)
    return [Planned(i, tuple(words), folder / f"{i}-{make_slug(words)}") for i, words in numbered]


def keep_folders(jobs: Iterable[Planned], folder: Path) -> list[Planned]:
    """Return the jobs, with the folder that sweep.json gives to each that was planned as `sweep=fused`."""
    stored = {(job.number, tuple(replace_removed(job.overrides))): job for job in read(folder)}
    return [stored.get((job.number, job.overrides), job) for job in jobs]


def note(folder: Path, words: Sequence[str], jobs: Sequence[Planned]) -> None:
    """Write what is to be run into sweep.json, beside the jobs that stand there.

    Raises ConfigError if a job of the same number stands there that is another one.
    """
    known = {job.number: job for job in read(folder)}
    for job in jobs:
        before = known.setdefault(job.number, job)
        if before.overrides != job.overrides:
            was, now = (
                [w for w in one.overrides if w not in other.overrides] for one, other in ((before, job), (job, before))
            )
            raise ConfigError(
                f"job {job.number} of {display_path(folder)} was {' '.join(was)} and would now be {' '.join(now)}\n"
                "  what the sweep was started from has changed; another sweep needs another name"
            )
    stored = content(folder) if (folder / PLAN).is_file() else {}
    weights = {**stored.get("init_from", {}), **first_weights(jobs)}
    for run, digest in stored.get("init_from", {}).items():
        if weights[run] != digest:
            raise ConfigError(
                f"init_from: the weights of {run} have changed since the sweep began\n"
                "  its other jobs would start from other ones: start a new sweep"
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


def first_weights(jobs: Iterable[Planned]) -> dict[str, str]:
    """Return, for each run that the jobs' `init_from` names, 16 hexadecimal digits of the SHA-256 of its best weights.

    Runs whose weights are gone are left out: their jobs will say so.
    """
    found = {}
    for word in {word for job in jobs for word in job.overrides}:
        key, _, value = word.lstrip("+").partition("=")
        path = Run(Path(value.strip("'\""))).checkpoint_path("best")
        if key == "init_from" and path.is_file():
            found[value.strip("'\"")] = file_digest(path)
    return found


def read(folder: Path) -> list[Planned]:
    """Return the jobs that sweep.json lists; none if there is no such file."""
    if not (folder / PLAN).is_file():
        return []
    return [plan(folder, [job["overrides"]], job["number"])[0] for job in content(folder)["jobs"]]


def command(folder: Path) -> list[str]:
    """Return the words that started the sweep in a folder; raises ConfigError if there is none."""
    if not (folder / PLAN).is_file():
        what = f"holds no {PLAN}" if folder.is_dir() else "does not exist"
        raise ConfigError(f"'{display_path(folder)}' is no sweep: the folder {what}")
    return list(content(folder)["command"])


def check_working_folder(folder: Path, words: Iterable[str]) -> None:
    """Raise ConfigError if words of a sweep name data by a path relative to another folder than this one."""
    started_in = content(folder)["cwd"]
    if not started_in or Path(started_in) == Path.cwd():
        return
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        group, _, leaf = key.rpartition(".")
        if group == "dataset" and leaf in DATA_PATHS and not Path(value.strip("'\"")).expanduser().is_absolute():
            raise ConfigError(
                f"{word} is relative to the folder that the sweep was started in\n  first: cd {shlex.quote(started_in)}"
            )


def typed_command(folder: Path) -> str:
    """Return the command that started the sweep in a folder as it was typed, quoted for a shell; empty without one."""
    if not (folder / PLAN).is_file():
        return ""
    found = content(folder)
    # Sweeps of older versions have only the words that Hydra was given. A stranger's may name another program.
    is_ours = found["typed"][:2] == ["aectl", "train"]
    return shlex.join(found["typed"] if is_ours else ["aectl", "train", *found["command"]])


def is_own(folder: Path) -> bool:
    """Return whether this user's aectl wrote the sweep.json in a folder, for a sweep in that very folder."""
    found = read_json(folder / PLAN)
    signature = found.pop("signature", None)
    return is_signed(signature, "sweep", str(folder.resolve()), found)


def content(folder: Path) -> dict[str, Any]:
    """Return what sweep.json holds; raises ConfigError if it cannot be read or anything in it is of another kind."""
    found = read_json(folder / PLAN)
    check_format(found, FORMAT, folder / PLAN)
    entry = {"typed": [], "cwd": "", "init_from": {}, **{key: value for key, value in found.items() if value}}
    jobs = found.get("jobs")
    kinds = {
        "typed": is_words(entry["typed"]),
        "command": is_words(found.get("command")),
        "cwd": isinstance(entry["cwd"], str),
        "init_from": isinstance(entry["init_from"], dict) and is_words(list(entry["init_from"].values())),
        "jobs": isinstance(jobs, list) and all(map(is_job, jobs)),
    }
    for key, fits in kinds.items():
        if not fits:
            raise ConfigError(f"{folder / PLAN} is damaged: its '{key}' is not what aectl writes there")
    return {key: found[key] if key in ("command", "jobs") else entry[key] for key in kinds}


def is_words(value: Any) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def is_job(value: Any) -> bool:
    """Return whether a value describes a job: its number and its overrides."""
    if not isinstance(value, dict) or not is_words(value.get("overrides")):
        return False
    number = value.get("number")
    return type(number) is int and 0 <= number < LARGEST
