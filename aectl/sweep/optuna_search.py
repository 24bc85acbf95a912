"""A study of Optuna's: which trial comes next, how each fares, and which are hopeless."""

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
from aectl.sweep.launch import carry_out, check_settings, folder_of, places_for, task_of, threads_for, typed
from aectl.sweep.plan import Planned, note, plan
from aectl.sweep.progress import goal_of, view
from aectl.sweep.results import read_epochs, read_jobs
from aectl.sweep.run_job import RunCommand
from aectl.sweep.search_space import Space
from aectl.sweep.worker_pool import Both, Places, Watcher
from aectl.system.terminal import format_count, make_console, wrap_text

if TYPE_CHECKING:
    import optuna

STUDY = "study.db"
MOST_TABLES = 100
PLAIN_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX \w+ ON \w+ \(\w+(, \w+)*\)", re.ASCII)
PLAIN_CHECK = re.compile(r"\bCHECK \(\w+ ?(=|IN) ?(\d+|\('\w+'(, '\w+')*\))\)", re.ASCII)
"""Of a column that has one of some values."""
COMPUTED = re.compile(r"\b(AS|CHECK|DEFAULT|GENERATED|SELECT|USING)\b|--|/\*|['`\[]", re.IGNORECASE)
"""What a statement has whose table computes its cells; and what could hide it."""
OWNER = "owner"
"""What a trial remembers besides its values: the machine and the process that took it."""


def open_study(folder: Path, storage: str | None, name: str, seed: int, prune: int | None) -> optuna.Study:
    """Return the study of a name, begun or gone on with; raises ConfigError without Optuna or without its storage.

    `storage` null is a file in `folder`, a URL a database, and a path a journal that several machines may write.
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
            storage=storage_of(folder, storage),
            study_name=name,
            pruner=optuna.pruners.NopPruner() if prune is None else optuna.pruners.MedianPruner(prune),
            load_if_exists=True,
        )
        study.sampler = optuna.samplers.TPESampler(seed=seed_of(study, seed, storage))
        return study
    except Exception as error:
        raise ConfigError(f"storage: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Context in which a study that cannot be read raises ConfigError; only parts of a damaged one are met at once."""
    try:
        yield
    except (ConfigError, OSError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"storage: the study is damaged: {type(error).__name__}: {reason}") from error


def check_tables(path: Path) -> None:
    """Raise ConfigError if a database that may be a stranger's computes what it gives.

    A view, a trigger or a generated column takes time and memory as it likes, `hex(zeroblob(500000000))` a gigabyte.
    """
    if not path.is_file():
        return
    try:
        check_sparse(path)
        with contextlib.closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT type, name, sql FROM sqlite_master").fetchmany(MOST_TABLES + 1)
    except (sqlite3.Error, SparseFileError) as error:
        raise ConfigError(f"storage: {path} cannot be read: {error}") from None
    odd = [name for kind, name, sql in found if not is_plain_table(kind, sql)]
    if odd or len(found) > MOST_TABLES:
        raise ConfigError(f"storage: {path} is no study of Optuna's: its '{(odd or ['…'])[0]}' is no plain table")


def is_plain_table(kind: str, sql: str | None) -> bool:
    """Return whether an entry of a database's schema only stores what is written there."""
    if kind == "index":
        # SQLite makes those without a statement.
        return sql is None or PLAIN_INDEX.fullmatch(sql) is not None
    return kind == "table" and not COMPUTED.search(PLAIN_CHECK.sub("", str(sql)))


def seed_of(study: optuna.Study, seed: int, storage: str | None) -> int:
    """Return the seed of what is drawn from here on, other numbers than those of before or of another machine."""
    known = len(study.get_trials(deepcopy=False))
    where = "" if storage is None else socket.gethostname()
    return zlib.crc32(repr((seed, known, where)).encode()) if known or where else seed


def storage_of(folder: Path, storage: str | None) -> Any:
    """Return what Optuna keeps a study in."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is None:
        return f"sqlite:///{folder / STUDY}"
    return storage if "://" in storage else JournalStorage(JournalFileBackend(storage))


class Search(Watcher):
    """Asks a study for jobs, tells it what they came to, and stops those that it gives up.

    A trial that a process of this machine took and did not end, since it is no more, is taken up again first.
    """

    def __init__(self, study: optuna.Study, space: Space, folder: Path, words: list[str], trials: int) -> None:
        self.study, self.space, self.folder, self.words, self.trials = study, space, folder, words, trials
        self.running: dict[int, tuple[optuna.Trial, Planned]] = {}
        self.reported: dict[int, int] = {}
        self.pruned: set[int] = set()
        self.warned = False

    def jobs(self) -> Iterator[Planned]:
        """Yield jobs until the study has as many trials as it is to have, here and on other machines."""
        with reading():
            for trial in self.left_over():
                yield self.take(trial)
            while len(self.study.get_trials(deepcopy=False)) < self.trials:
                yield self.take(self.study.ask())

    def left_over(self) -> list[optuna.Trial]:
        """Return the trials that a process of this machine left unfinished."""
        import optuna

        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        gone = [trial for trial in running if is_gone(trial.user_attrs.get(OWNER))]
        return [optuna.Trial(self.study, trial._trial_id) for trial in gone]

    def take(self, trial: optuna.Trial) -> Planned:
        """Return a trial's job, in the sweep's folder under the trial's number."""
        words = self.space.draw(trial)
        trial.set_user_attr(OWNER, [socket.gethostname(), os.getpid()])
        (job,) = plan(self.folder, [words], trial.number)
        note(self.folder, self.words, [job])
        self.running[job.number] = (trial, job)
        return job

    def tick(self) -> None:
        for trial, job in list(self.running.values()):
            self.report(trial, job)
            if job.number not in self.pruned and trial.should_prune():
                self.give_up(job)

    def report(self, trial: optuna.Trial, job: Planned) -> None:
        """Tell the study the objective after each epoch that it has not heard of."""
        metric = goal_of(job).get("objective")
        for row in read_epochs(job.folder):
            epoch, value = int(row["epoch"]), row.get(metric or "")
            if value and epoch > self.reported.get(job.number, 0):
                trial.report(float(value), epoch)
                self.reported[job.number] = epoch

    def give_up(self, job: Planned) -> None:
        """Let a hopeless run stop at its next step."""
        pid = Run(job.folder).record.get("pid") if job.status == "running" else None
        # Of a run that goes on, the record has its former process until it has begun.
        if pid is not None and pid in {child.pid for child in active_children()}:
            self.pruned.add(job.number)
            os.kill(pid, signal.SIGTERM)

    def ended(self, job: Planned, error: str) -> None:
        import optuna

        trial, _ = self.running.pop(job.number)
        self.report(trial, job)
        value = (Run(job.folder).record.get("objective") or {}).get("value") if job.status else None
        if job.number in self.pruned:
            Run(job.folder).update(status="pruned")
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif job.status == "failed" or (value is None and job.status == "done"):
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif job.status == "done":
            self.study.tell(trial, value)
            self.warn()

    def warn(self) -> None:
        """Print once if what the jobs minimise cannot be compared between them, so that the search is misled."""
        if not self.warned and (reason := why_not_comparable(read_jobs(self.folder))):
            self.warned = True
            out = make_console()
            text = f"{reason}: type objective=val/mse, or another metric that all jobs share"
            out.print(wrap_text(out, text), soft_wrap=True)


def is_gone(owner: Any) -> bool:
    """Return whether a trial's owner was a process of this machine that is no more."""
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
    """Search until the study has as many trials as `trials`, and draw how it went."""
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, not {trials}")
    check_settings(config)
    space, folder = Space(arguments, to_plain(OmegaConf.create(dict(params)))), folder_of(config)
    found = open_study(folder, storage, study, seed, prune)
    left = trials - len(found.get_trials(deepcopy=False))
    launcher = config.hydra.launcher
    number = places_for(config, launcher.get("jobs"), trials)
    search = Search(found, space, folder, typed(), trials)
    known = f", {trials - left} of them known already" if left < trials else ""
    make_console().print(f"{format_count(trials, 'trial')}{known}; {number} at a time")
    watcher = Both(search, view(trials, lambda job: " ".join(job.overrides[len(space.fixed) :])))
    task = task_of(config, run_command, threads_for(number), arguments)
    carry_out(folder, search.jobs(), Places(number, task, watcher, launcher.get("fail_fast", False)))
    # Imported here: matplotlib takes longer to import than a search to start.
    from aectl.sweep.plots import draw_study

    draw_study(found, folder / "figures")
