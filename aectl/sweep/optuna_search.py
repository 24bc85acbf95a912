"""Searches hyperparameters with Optuna: proposes jobs, reports their objectives and prunes unpromising ones."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from aectl.config import ConfigError, to_plain
from aectl.config.untrusted_files import SparseFileError, check_sparse
from aectl.runs.run import Run, is_alive
from aectl.sweep.comparable_metric import why_not_comparable
from aectl.sweep.launch import (
    bind_run_job,
    check_settings,
    choose_worker_count,
    make_sweep_folder,
    run_jobs,
    sweep_arguments,
    threads_per_worker,
)
from aectl.sweep.plan import PlannedJob, plan_jobs, write_plan
from aectl.sweep.progress import make_progress_view, read_goal
from aectl.sweep.results import read_epochs, read_jobs
from aectl.sweep.run_job import RunCommand
from aectl.sweep.search_space import SearchSpace
from aectl.sweep.worker_pool import JobObserver, ObserverPair, WorkerPool
from aectl.system.terminal import format_count, make_console, wrap_text

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
MAX_TABLES = 100
PLAIN_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX \w+ ON \w+ \(\w+(, \w+)*\)", re.ASCII)
PLAIN_CHECK = re.compile(r"\bCHECK \(\w+ ?(=|IN) ?(\d+|\('\w+'(, '\w+')*\))\)", re.ASCII)
"""Matches a CHECK that restricts a column to listed values."""
COMPUTED_COLUMN = re.compile(r"\b(AS|CHECK|DEFAULT|GENERATED|SELECT|USING)\b|--|/\*|['`\[]", re.IGNORECASE)
"""Matches what makes a table compute its values, and the quotes and comments that could hide it."""
OWNER = "owner"
"""User attribute of a trial: the host and the pid of the process that runs it."""


def open_study(folder: Path, storage: str | None, name: str, seed: int, prune: int | None) -> optuna.Study:
    """Create the study of a name or load it from its storage.

    `storage` is a URL of a database, a path of a journal file that several machines may share, or None for a SQLite
    file in `folder`. `prune` is the number of trials that must complete before any is pruned; None prunes none.

    Raises ConfigError if Optuna is missing or the storage cannot be read.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs Optuna: pip install 'aectl[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage is None:
        check_tables(folder / STUDY)
    try:
        study = optuna.create_study(
            storage=open_storage(folder, storage),
            study_name=name,
            pruner=optuna.pruners.NopPruner() if prune is None else optuna.pruners.MedianPruner(prune),
            load_if_exists=True,
        )
        study.sampler = optuna.samplers.TPESampler(seed=derive_seed(study, seed, storage))
        return study
    except Exception as error:
        raise ConfigError(f"storage: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


@contextlib.contextmanager
def wrap_study_errors() -> Iterator[None]:
    """Raise ConfigError if the block fails to read the study: Optuna does not check all of it when it is opened."""
    try:
        yield
    except (ConfigError, OSError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"storage: the study is damaged: {type(error).__name__}: {reason}") from error


def check_tables(path: Path) -> None:
    """Raise ConfigError if a SQLite file has anything but plain tables and indices.

    The file may come from someone else, and a view, a trigger or a generated column can take any time and memory, such
    as 1 GB for `hex(zeroblob(500000000))`.
    """
    if not path.is_file():
        return
    try:
        check_sparse(path)
        with contextlib.closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT type, name, sql FROM sqlite_master").fetchmany(MAX_TABLES + 1)
    except (sqlite3.Error, SparseFileError) as error:
        raise ConfigError(f"storage: {path} cannot be read: {error}") from None
    odd = [name for kind, name, sql in found if not is_plain_table(kind, sql)]
    if odd or len(found) > MAX_TABLES:
        raise ConfigError(f"storage: {path} is not a study of Optuna: its '{(odd or ['…'])[0]}' is not a plain table")


def is_plain_table(kind: str, sql: str | None) -> bool:
    """Return whether an entry of a database's schema is a table or an index that computes nothing."""
    if kind == "index":
        # Indices that SQLite creates itself have no statement.
        return sql is None or PLAIN_INDEX.fullmatch(sql) is not None
    return kind == "table" and not COMPUTED_COLUMN.search(PLAIN_CHECK.sub("", str(sql)))


def derive_seed(study: optuna.Study, seed: int, storage: str | None) -> int:
    """Return a seed that differs after each resume and, in a shared study, on each machine.

    With the same seed the sampler would draw the same values again.
    """
    known = len(study.get_trials(deepcopy=False))
    where = "" if storage is None else socket.gethostname()
    return zlib.crc32(repr((seed, known, where)).encode()) if known or where else seed


def open_storage(folder: Path, storage: str | None) -> Any:
    """Return the `storage` argument of `optuna.create_study`."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is None:
        return f"sqlite:///{folder / STUDY}"
    return storage if "://" in storage else JournalStorage(JournalFileBackend(storage))


class Search(JobObserver):
    """Proposes the jobs of a study, reports their objectives to it and stops those that it prunes.

    Trials that a process of this machine started and did not finish are resumed first.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, folder: Path, words: list[str], trials: int) -> None:
        self.study, self.space, self.folder, self.words, self.trials = study, space, folder, words, trials
        self.running: dict[int, tuple[optuna.Trial, PlannedJob]] = {}
        self.reported: dict[int, int] = {}
        self.pruned: set[int] = set()
        self.warned = False

    def propose_jobs(self) -> Iterator[PlannedJob]:
        """Yield jobs until the study has `trials` trials, those of other machines included."""
        with wrap_study_errors():
            for trial in self.find_abandoned_trials():
                yield self.start_trial(trial)
            while len(self.study.get_trials(deepcopy=False)) < self.trials:
                yield self.start_trial(self.study.ask())

    def find_abandoned_trials(self) -> list[optuna.Trial]:
        """Return the running trials of processes of this machine that have ended."""
        import optuna

        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        gone = [trial for trial in running if is_owner_gone(trial.user_attrs.get(OWNER))]
        return [optuna.Trial(self.study, trial._trial_id) for trial in gone]

    def start_trial(self, trial: optuna.Trial) -> PlannedJob:
        """Mark a trial as run by this process, add its job to sweep.json and return the job.

        The job has the number of the trial.
        """
        words = self.space.suggest_overrides(trial)
        trial.set_user_attr(OWNER, [socket.gethostname(), os.getpid()])
        (job,) = plan_jobs(self.folder, [words], trial.number)
        write_plan(self.folder, self.words, [job])
        self.running[job.number] = (trial, job)
        return job

    def tick(self) -> None:
        for trial, job in list(self.running.values()):
            self.report_epochs(trial, job)
            if job.number not in self.pruned and trial.should_prune():
                self.prune_job(job)

    def report_epochs(self, trial: optuna.Trial, job: PlannedJob) -> None:
        """Report the objective of each new epoch to the study."""
        metric = read_goal(job).get("objective")
        for row in read_epochs(job.folder):
            epoch, value = int(row["epoch"]), row.get(metric or "")
            if value and epoch > self.reported.get(job.number, 0):
                trial.report(float(value), epoch)
                self.reported[job.number] = epoch

    def prune_job(self, job: PlannedJob) -> None:
        """Stop a run at its next step."""
        pid = Run(job.folder).record.get("pid") if job.status == "running" else None
        # Until a resumed run has started, its run.json has the pid of its former process.
        if pid is not None and pid in {child.pid for child in active_children()}:
            self.pruned.add(job.number)
            os.kill(pid, signal.SIGTERM)

    def ended(self, job: PlannedJob, error: str) -> None:
        import optuna

        trial, _ = self.running.pop(job.number)
        self.report_epochs(trial, job)
        value = (Run(job.folder).record.get("objective") or {}).get("value") if job.status else None
        if job.number in self.pruned:
            Run(job.folder).update(status="pruned")
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif job.status == "failed" or (value is None and job.status == "done"):
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif job.status == "done":
            self.study.tell(trial, value)
            self.warn_if_incomparable()

    def warn_if_incomparable(self) -> None:
        """Warn once if the objectives of the jobs cannot be compared, because the search would be misled."""
        if not self.warned and (reason := why_not_comparable(read_jobs(self.folder))):
            self.warned = True
            out = make_console()
            text = f"{reason}: set objective=val/mse, or another metric that all jobs share"
            out.print(wrap_text(out, text), soft_wrap=True)


def is_owner_gone(owner: Any) -> bool:
    """Return whether a trial's owner is a process of this machine that has ended."""
    if not (isinstance(owner, list) and len(owner) == 2 and type(owner[1]) is int):
        return False
    return owner[0] == socket.gethostname() and not is_alive(owner[1])


def run_search(
    config: DictConfig,
    arguments: Sequence[str],
    run_command: RunCommand,
    *,
    trials: int,
    storage: str | None,
    study: str,
    seed: int,
    prune: int | None,
    params: Mapping[str, Any],
) -> None:
    """Search until the study has `trials` trials, then draw its figures."""
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, not {trials}")
    check_settings(config)
    space, folder = SearchSpace(arguments, to_plain(OmegaConf.create(dict(params)))), make_sweep_folder(config)
    found = open_study(folder, storage, study, seed, prune)
    left = trials - len(found.get_trials(deepcopy=False))
    launcher = config.hydra.launcher
    number = choose_worker_count(config, launcher.get("jobs"), trials)
    search = Search(found, space, folder, sweep_arguments(), trials)
    known = f", {trials - left} of them started already" if left < trials else ""
    make_console().print(f"{format_count(trials, 'trial')}{known}; {number} at a time")
    observer = ObserverPair(search, make_progress_view(trials, lambda job: " ".join(job.overrides[len(space.fixed) :])))
    job_function = bind_run_job(config, run_command, threads_per_worker(number), arguments)
    run_jobs(
        folder, search.propose_jobs(), WorkerPool(number, job_function, observer, launcher.get("fail_fast", False))
    )
    # Imported here because importing matplotlib would delay the start of the search.
    from aectl.sweep.plots import draw_study

    draw_study(found, folder / "figures")
