"""OpenMP threads sleep while they wait, as long as other processes need their core; the machine is invented."""

import sys
import threading
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from aectl.system.idle_cores import CpuTimes
from aectl.training import spin_wait
from aectl.training.spin_wait import SpinLimit, SpinWatch

needs_libgomp = pytest.mark.skipif(
    sys.platform != "linux" or not any(found["prefix"] == "libgomp" for found in threadpool_info()),
    reason="torch uses another OpenMP here",
)


class Recorded:
    """A limit that only remembers."""

    def __init__(self):
        self.is_on, self.threads = False, None

    def start(self, threads):
        assert not self.is_on
        self.is_on, self.threads = True, threads

    def stop(self):
        self.is_on = False


def states(threads, cores, *shares):
    """Return whether spinning is limited after each second, in which this process and others use so many cores."""
    wall = own = used = 0.0
    times = []
    for mine, others in ((0, 0), *shares):
        wall, own, used = wall + 1, own + mine, used + mine + others
        times.append(CpuTimes(wall, own, ((cores, used),)))
    watch = SpinWatch(Recorded(), iter(times).__next__)
    watch.threads = threads
    found = []
    for _ in times:
        watch.update_limit()
        found.append(watch.limit.is_on)
    return found[1:]


@pytest.mark.parametrize(
    ("threads", "cores", "shares", "limited"),
    [
        (2, 2, [(1.9, 0), (1.9, 0.1), (1.6, 0.4)], [False] * 3),
        (2, 2, [(1.9, 0), (1, 1), (1, 1), (1.9, 0)], [False, True, True, False]),
        (4, 8, [(4, 4), (4, 3)], [False] * 2),  # room for all
        (8, 8, [(6, 2), (7.9, 0.1)], [True, False]),
        (2, 1, [(1, 0)], [True]),  # a container's quota of one core
        (4, 2, [(2, 0)], [True]),  # more than there are
    ],
)
def test_spinning_is_limited_while_others_need_the_cores(threads, cores, shares, limited):
    assert states(threads, cores, *shares) == limited


def test_processes_that_train_together_are_no_others(monkeypatch):
    monkeypatch.setattr(spin_wait.parallel, "local_count", lambda: 2)
    assert states(2, 4, (2, 2), (2, 2)) == [False, False]


def test_one_thread_is_not_watched_and_lifts_the_limit():
    watch = SpinWatch(Recorded(), lambda: pytest.fail("measured"))
    watch.limit.start(2)
    watch.start(1)
    watch.update_limit()
    assert watch.thread is None and not watch.limit.is_on


def test_a_watch_is_started_once_and_not_without_proc_stat(monkeypatch):
    watch = SpinWatch(Recorded(), lambda: None)
    watch.start(2)
    assert watch.thread is None
    monkeypatch.setattr(SpinWatch, "run", lambda self: None)
    watch = SpinWatch(Recorded(), lambda: CpuTimes(0, 0, ((2.0, 0.0),)))
    watch.start(2)
    thread = watch.thread
    assert thread.daemon
    watch.start(3)
    assert (watch.thread, watch.threads) == (thread, 3)


def tasks():
    return {path.name for path in Path("/proc/self/task").iterdir()}


@needs_libgomp
def test_the_limit_keeps_a_team_larger_than_the_machine_and_ends_it(monkeypatch):
    monkeypatch.setattr(spin_wait, "allowed_cores", lambda: {0, 1, 2, 3})
    before, threads = tasks(), threading.active_count()
    limit = SpinLimit()
    limit.start(2)
    # The keeper, and with it a team of 4 for each libgomp: with the 2 that compute, 5 threads on 4 cores.
    assert limit.is_on and threading.active_count() == threads + 1
    libraries = [found for found in threadpool_info() if found["prefix"] == "libgomp"]
    assert len(tasks() - before) == 1 + 3 * len(libraries)
    limit.stop()
    limit.stop()
    assert not limit.is_on and threading.active_count() == threads


@needs_libgomp
def test_results_are_the_same_to_the_bit_with_a_limit():
    torch.set_num_threads(2)
    x = torch.randn(300, 700, generator=torch.Generator().manual_seed(0))
    free = (x @ x.T, x.sum(), x.exp())
    limit = SpinLimit()
    limit.start(2)
    try:
        for one, other in zip(free, (x @ x.T, x.sum(), x.exp()), strict=True):
            assert torch.equal(one, other)
    finally:
        limit.stop()
