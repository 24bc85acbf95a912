"""Cores that other processes leave free, by invented texts of /proc/stat, control groups and `ps`."""

import itertools
import os
import subprocess
import types

import pytest

from aectl.system import idle_cores, machine
from aectl.system.idle_cores import CpuTimes, busy_seconds, count_running, free_cores, measure_free_cores
from aectl.system.machine import count_usable_cores, read_cpu_quotas, whole_cores

STAT = """\
cpu  1000 200 300 9000 50 6 7 8 90 0
cpu0 100 20 30 4000 500 1 2 3 90 0
cpu1 200 0 0 4000 0 0 0 0 0 0
cpu3 400 0 0 4000 0 0 0 0 0 0
intr 123 4 5
ctxt 99
"""


@pytest.fixture
def cores(monkeypatch):
    """Return a function that gives the process so many cores, and a fresh measurement."""

    def have(number):
        for place in (machine, idle_cores):
            monkeypatch.setattr(place, "allowed_cores", lambda: set(range(number)))
        monkeypatch.setattr(machine, "read_cpu_quotas", lambda: iter(()))

    idle_cores.count_idle_cores.cache_clear()
    yield have
    idle_cores.count_idle_cores.cache_clear()


@pytest.mark.parametrize(
    ("chosen", "ticks"),
    [
        ({0}, 156),  # user, nice, system, irq, softirq and steal; neither idle, nor iowait, nor a guest's again
        ({1, 3}, 600),
        ({0, 1, 2}, 356),  # 2 is not listed: switched off
        ({64, 65}, 756),  # numbered anew in a container
    ],
)
def test_busy_seconds_count_the_cores_of_this_process(chosen, ticks):
    assert busy_seconds(STAT, chosen, 100) == pytest.approx(ticks / 100)


@pytest.mark.parametrize("text", ["", "intr 1 2\n", "cpu  1 2 3 4 5 6 7 8\n", "cpu0 a b\n"])
def test_a_stat_that_lists_no_cores_is_refused(text):
    with pytest.raises(ValueError, match=r"no cores|invalid literal"):
        busy_seconds(text, {0}, 100)


@pytest.mark.parametrize(
    ("own", "pools", "processes", "free"),
    [
        (0, [(2, 0)], 1, 2),
        (0, [(2, 10)], 1, 1),  # one busy process
        (10, [(2, 20)], 1, 1),  # it and this one
        (19, [(2, 20)], 1, 1.9),  # two threads of this one alone
        (10, [(2, 20)], 2, 2),  # two processes that train together
        (0, [(64, 300), (4, 0)], 1, 4),  # a container with a quota of 4 on a host that is half busy
        (0, [(64, 300), (2, 10)], 1, 1),  # and another process in the container
        (0, [(4, 60)], 1, -2),  # counters that ran ahead
    ],
)
def test_free_cores_are_those_that_others_do_not_use(own, pools, processes, free):
    before = CpuTimes(100, 5, tuple((cores, 7.0) for cores, _ in pools))
    after = CpuTimes(110, 5 + own, tuple((cores, 7.0 + used) for cores, used in pools))
    assert free_cores(before, after, processes) == pytest.approx(free)


def times(*busy):
    """Return what reads the CPU times of two cores, of which `busy` many are in use in each window of a second."""
    totals = itertools.accumulate(busy, initial=0.0)
    moments = iter([CpuTimes(wall, 0.0, ((2.0, total),)) for wall, total in enumerate(totals)])
    return lambda: next(moments)


@pytest.mark.parametrize(
    ("busy", "windows", "threads"),
    [
        ((0.0,), 1, 2),
        ((0.2,), 1, 2),  # a desktop's noise
        ((1.0, 1.0, 1.0), 3, 1),
        ((1.8, 0.1, 0.0), 3, 2),  # a command that just ended
        ((0.5, 0.1, 0.9), 3, 1),
        ((2.0, 2.0, 2.0), 3, 1),
    ],
)
def test_a_machine_is_idle_at_once_and_busy_after_several_windows(busy, windows, threads, cores):
    cores(2)
    slept = []
    assert whole_cores(measure_free_cores(times(*busy), slept.append)) == threads
    assert len(slept) == windows


@pytest.mark.parametrize(
    ("usable", "free", "running", "idle", "said"),
    [
        (2, 2.0, 9, 2, []),
        (2, 1.0, 0, 1, ["other processes use 1 of 2 cores: using 1"]),
        (8, 4.6, 0, 4, ["other processes use 3 of 8 cores: using 4"]),
        (2, -0.1, 0, 1, ["other processes use 2 of 2 cores: using 1"]),
        (4, None, 1, 3, ["other processes use 1 of 4 cores: using 3"]),
        (4, None, 9, 1, ["other processes use 4 of 4 cores: using 1"]),
        (4, None, 0, 4, []),
        (1, None, 0, 1, []),
    ],
)
def test_idle_cores_are_measured_once_and_said(usable, free, running, idle, said, cores, monkeypatch, caplog):
    cores(usable)
    monkeypatch.setattr(idle_cores, "measure_free_cores", lambda: free)
    monkeypatch.setattr(idle_cores, "count_running", lambda: running)
    caplog.set_level("INFO", "aectl")
    assert [idle_cores.count_idle_cores() for _ in range(2)] == [idle] * 2
    assert caplog.messages == said


def test_without_proc_stat_processes_are_counted_that_run_all_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(idle_cores, "STAT", tmp_path / "nowhere")
    assert measure_free_cores(sleep=lambda seconds: None) is None
    own = os.getpid()
    lists = iter([f"{own} R+\n7 R\n8 Rs\n1 Ss\n90 R\n", f"{own} R+\n7 R\n8 S\n91 R\n\n", f"{own} S\n7 RN\n8 R\n92 R\n"])
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: types.SimpleNamespace(stdout=next(lists)))
    assert count_running(lambda seconds: None) == 1

    def fail(*arguments, **settings):
        raise FileNotFoundError("ps")

    monkeypatch.setattr(subprocess, "run", fail)
    assert count_running(lambda seconds: None) == 0


def write(folder, files):
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)


@pytest.mark.parametrize(
    ("listed", "files", "quotas"),
    [
        # docker run --cpus=1.5, version 2: the group's own folder is the root.
        ("0::/\n", {"cpu.max": "150000 100000\n", "cpu.stat": "usage_usec 2500000\nuser_usec 1\n"}, [(1.5, 2.5)]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        # A pod's quota above a container's.
        ("0::/pod/a\n", {"pod/a/cpu.max": "100000 50000", "pod/cpu.max": "300000 100000"}, [(2.0, 0.0), (3.0, 0.0)]),
        # Version 1, where the path is the host's.
        (
            "5:memory:/x\n4:cpu,cpuacct:/docker/1f\n",
            {
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
                "cpuacct/cpuacct.usage": "3000000000\n",
            },
            [(0.5, 3.0)],
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100", "cpu/cpu.cfs_period_us": "0"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
        ("0::/\n", {}, []),
    ],
)
def test_cpu_quotas_of_control_groups_are_found(listed, files, quotas, tmp_path):
    write(tmp_path, {"listed": listed, **files})
    assert list(read_cpu_quotas(tmp_path / "listed", tmp_path)) == quotas


@pytest.mark.parametrize(("quota", "usable"), [(0.5, 1), (1.0, 1), (1.5, 1), (1.8, 2), (3.0, 3), (99.0, 4)])
def test_a_quota_limits_the_usable_cores(quota, usable, cores, monkeypatch):
    cores(4)
    monkeypatch.setattr(machine, "read_cpu_quotas", lambda: iter([(quota, 0.0)]))
    assert count_usable_cores() == usable


def test_this_machine_is_measured_where_it_has_proc_stat():
    assert (measure_free_cores(sleep=lambda seconds: None) is None) != idle_cores.STAT.is_file()
