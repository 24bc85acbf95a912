"""Jobs beside each other: every one has its turn, whatever befalls the others."""

import errno
import os
import shlex
import signal
import threading
import time
from contextvars import copy_context
from multiprocessing import active_children
from pathlib import Path

import pytest

from aectl.config import ConfigError
from aectl.runs.run import COMMAND
from aectl.sweep import read_jobs, worker_pool
from aectl.sweep.plan import plan_jobs, read_command, read_planned_jobs, read_typed_command, write_plan
from aectl.sweep.run_job import build_command
from aectl.sweep.worker_pool import JobObserver, WorkerPool


class Diary(JobObserver):
    def __init__(self, when=None):
        self.lines, self.when = [], when or {}

    def started(self, job):
        self.lines.append(f"{job.number} begins")

    def ended(self, job, error):
        self.lines.append(f"{job.number} {error or 'ends'}")

    def tick(self):
        if self.lines and (action := self.when.pop(self.lines[-1], None)):
            action()


def work(job):
    """What a job's only override says: wait, fail, or be killed; leaves its process's number and folder."""
    what, stop = job.overrides[0], threading.Event()
    if what == "wait":
        # Before the file that says that it may be stopped.
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    (job.folder.parent / f"{job.number}.pid").write_text(f"{os.getpid()} {Path.cwd()}")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise RuntimeError("unforeseen")
    if what == "wait":
        stop.wait(60)
        (job.folder.parent / f"{job.number}.saved").touch()
    if what == "fail":
        # Not before the first job has begun in earnest.
        wait_for(job.folder.parent / "0.pid")
        return "boom"
    return ""


def carry_out(folder, kinds, number=2, diary=None, **settings):
    diary = diary or Diary()
    jobs = plan_jobs(folder, [[kind] for kind in kinds])
    try:
        WorkerPool(number, work, diary, **settings).run(jobs)
    except KeyboardInterrupt:
        diary.lines.append("interrupted")
    return diary.lines


def pids(folder):
    return [path.read_text().split(" ", 1) for path in sorted(folder.glob("*.pid"))]


def test_as_many_processes_as_places_do_all_jobs_in_their_order(tmp_path):
    lines = carry_out(tmp_path, ["do"] * 5)
    assert [line for line in lines if "begins" in line] == [f"{i} begins" for i in range(5)]
    assert sorted(line for line in lines if "ends" in line) == [f"{i} ends" for i in range(5)]
    assert len({pid for pid, _ in pids(tmp_path)} - {str(os.getpid())}) == 2
    assert {folder for _, folder in pids(tmp_path)} == {str(Path.cwd())}


def test_failures_and_killed_processes_take_no_other_job_with_them(tmp_path):
    lines = carry_out(tmp_path, ["fail", "kill", "raise", "do", "do"])
    assert {"0 boom", "1 its process was killed", "2 RuntimeError: unforeseen", "3 ends", "4 ends"} <= set(lines)
    # One that left no record counts as failed all the same.
    failed = {job.number: job.error for job in read_jobs(tmp_path) if job.status == "failed"}
    assert failed == {0: "boom", 1: "its process was killed", 2: "RuntimeError: unforeseen"}


def test_a_place_that_is_killed_while_it_waits_is_replaced(tmp_path):
    def kill_the_idle():
        (idle,) = (child for child in active_children() if str(child.pid) == pids(tmp_path)[0][0])
        idle.kill()
        idle.join()

    diary = Diary({"0 ends": kill_the_idle})
    assert carry_out(tmp_path, ["do", "do"], number=1, diary=diary)[-1] == "1 ends"


def test_fail_fast_stops_the_others_where_they_can_save(tmp_path):
    lines = carry_out(tmp_path, ["wait", "fail", "do"], fail_fast=True)
    assert "1 boom" in lines and "0 ends" in lines
    assert not [line for line in lines if line.startswith("2")]
    assert (tmp_path / "0.saved").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_runs_save_and_starts_no_more(tmp_path, number):
    diary = Diary({"1 begins": lambda: (wait_for(tmp_path / "1.pid"), os.kill(os.getpid(), number))})
    lines = carry_out(tmp_path, ["wait", "wait", "do"], diary=diary)
    assert sorted(lines) == ["0 begins", "0 ends", "1 begins", "1 ends", "interrupted"]
    assert (tmp_path / "0.saved").exists() and (tmp_path / "1.saved").exists()


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.2)


def test_the_command_of_a_sweep_stays_the_one_that_was_typed_first(tmp_path):
    typed = ("aectl", "train", "-m", "tags.why=it's $x")
    (job,) = plan_jobs(tmp_path, [["seed=0"]])
    assert read_typed_command(tmp_path) == ""
    for words in (typed, ("aectl", "train", "-m", "resume=latest")):
        context = copy_context()
        context.run(COMMAND.set, words)
        context.run(write_plan, tmp_path, ["-m", "seed=0"], [job])
    assert tuple(shlex.split(read_typed_command(tmp_path))) == typed
    assert read_command(tmp_path) == ["-m", "seed=0"]


def test_the_plan_is_kept_and_another_one_refused(tmp_path):
    jobs = plan_jobs(tmp_path, [["model=vae", "seed=0"], ["model=vae", "seed=1"]])
    assert [job.folder.name for job in jobs] == ["0-vae-seed_0", "1-vae-seed_1"]
    write_plan(tmp_path, ["-m", "model=vae", "seed=0,1"], jobs)
    assert read_planned_jobs(tmp_path) == jobs
    assert read_command(tmp_path) == ["-m", "model=vae", "seed=0,1"]
    # A sweeper that goes on adds jobs; one that means others under the same numbers is refused.
    more = plan_jobs(tmp_path, [["model=vae", "seed=2"]], first=2)
    write_plan(tmp_path, ["-m"], more)
    assert read_planned_jobs(tmp_path) == [*jobs, *more]
    with pytest.raises(ConfigError, match=r"job 1 of .* was model=vae seed=1"):
        write_plan(tmp_path, ["-m"], plan_jobs(tmp_path, [["seed=7"]], first=1))


def test_a_job_is_trained_by_its_own_words_without_the_sweeps(tmp_path):
    (job,) = plan_jobs(tmp_path, [["sweep=optuna", "model=vae", "+sweep=ray", "tags.sweep=x"]])
    assert build_command(job, ["device.threads=1"]) == [
        *("model=vae", "tags.sweep=x", "device.threads=1", f"hydra.run.dir='{job.folder}'"),
    ]


def test_a_damaged_plan_is_told(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ConfigError, match=r"sweep.json cannot be read"):
        read_command(tmp_path)
    with pytest.raises(ConfigError, match="is not a sweep: the folder does not exist"):
        read_command(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.ENOSYS])
def test_a_system_without_shared_memory_is_named(monkeypatch, number):
    def refuse(*arguments, **settings):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(ConfigError, match=rf"needs shared memory.*: {os.strerror(number)}\n  make /dev/shm writable"):
        worker_pool.make_worker()
