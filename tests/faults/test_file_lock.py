"""Locks where the file system refuses them, and locks of processes that are no more, or of other hosts."""

import errno
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from aectl.evaluation.baseline_cache import Cache
from aectl.system import file_lock
from aectl.system.file_lock import FileLock, Timeout
from tests.small import DENSE, QUICK


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def refused(request, monkeypatch):
    def flock(number, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(file_lock, "WARNED", set())
    return request.param


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def held_by(path, owner):
    path.with_name(f"{path.name}.owner").write_text(owner, encoding="utf-8")


def check_holds(path):
    """Assert that a lock holds, and holds nobody up once it is released."""
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    assert first.is_held
    with pytest.raises(Timeout):
        second.acquire(timeout=0)
    first.release()
    second.acquire(timeout=0)
    second.release()
    assert not (first.is_held or second.is_held)


def test_a_lock_holds(tmp_path):
    check_holds(tmp_path / "lock")
    assert not list(tmp_path.glob("*.owner"))


def test_a_lock_that_nobody_has_any_more_is_free(tmp_path):
    FileLock(tmp_path / "lock").acquire()
    check_holds(tmp_path / "lock")


def test_a_lock_holds_where_the_file_system_refuses_it_and_says_so_once(tmp_path, refused, caplog):
    check_holds(tmp_path / "lock")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no file locks here" in caplog.text
    assert not list(tmp_path.glob("*.owner"))


@pytest.mark.parametrize("owner", ["dead", "reboot", "empty"])
def test_a_stale_lock_is_taken_over(tmp_path, monkeypatch, refused, owner):
    path, host = tmp_path / "lock", socket.gethostname()
    held_by(path, {"dead": f"{dead_process()}@{host}", "reboot": f"1@{host}", "empty": ""}[owner])
    os.utime(tmp_path / "lock.owner", (time.time() - 60,) * 2)
    if owner == "reboot":
        # Process ids of before are of other processes now.
        monkeypatch.setattr(file_lock, "boot_time", lambda: time.time() - 30)
    lock = FileLock(path)
    lock.acquire(timeout=0)
    assert file_lock.read_owner(tmp_path / "lock.owner") == (os.getpid(), host)


def test_a_lock_that_is_taken_over_meanwhile_is_not_removed(tmp_path):
    held_by(tmp_path / "lock", f"{os.getpid()}@{socket.gethostname()}")
    FileLock(tmp_path / "lock").remove_dead_owner()
    assert [path.name for path in tmp_path.iterdir()] == ["lock.owner"]


def test_a_lock_of_another_host_is_waited_for_and_named(tmp_path, refused, caplog, monkeypatch):
    monkeypatch.setattr(file_lock, "LOG_AFTER_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    held_by(tmp_path / "lock", "7@elsewhere")
    threading.Timer(0.4, (tmp_path / "lock.owner").unlink).start()
    lock = FileLock(tmp_path / "lock")
    lock.acquire(purpose="computes the baseline pca")
    lock.release()
    text = [record.message for record in caplog.records if "waiting" in record.message]
    hint = f"(if that has ended, remove {tmp_path / 'lock.owner'})"
    assert text == [f"waiting for process 7 of elsewhere {hint}, which computes the baseline pca"]


def test_a_file_that_its_owner_removed_is_no_lock(tmp_path, monkeypatch):
    path, true = tmp_path / "lock", file_lock.fcntl.flock

    def remove_first(number, operation):
        path.unlink(missing_ok=True)
        monkeypatch.setattr("fcntl.flock", true)
        true(number, operation)

    monkeypatch.setattr("fcntl.flock", remove_first)
    lock = FileLock(path)
    lock.acquire(timeout=1)
    assert path.is_file()
    lock.release()


def test_other_errors_of_locks_are_raised(tmp_path, monkeypatch):
    def flock(number, operation):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="broken"):
        FileLock(tmp_path / "lock").acquire()
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "none" / "lock").acquire()


@pytest.mark.parametrize("refused", [errno.ENOLCK], indirect=True)
def test_runs_are_trained_resumed_and_listed_without_file_locks(aectl, tmp_path, refused):
    run = tmp_path / "run"
    code, out, _ = aectl("train", *QUICK, *DENSE, "model.code=2", f"hydra.run.dir={run}")
    assert code == 0
    assert out.count("no file locks here") == 1
    held_by(run / ".lock", "7@elsewhere")
    code, _, err = aectl("train", f"resume={run}", "epochs=2")
    assert code == 2
    assert f"is being trained by process 7 of elsewhere (if that has ended, remove {run}/.lock.owner)" in err
    held_by(run / ".lock", f"{dead_process()}@{socket.gethostname()}")
    assert aectl("train", f"resume={run}", "epochs=2")[0] == 0
    assert Cache(tmp_path / "cache").numbers("one", lambda: 1) == 1
