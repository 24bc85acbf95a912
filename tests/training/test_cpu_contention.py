"""A run that other processes slow down says so once, with what helps; clock and machine are invented."""

import types

import pytest
import torch

from aectl.system.idle_cores import CpuTimes
from aectl.training import cpu_contention
from aectl.training.cpu_contention import CpuContention

FAST = 0.003


class Machine:
    """Two cores, on which a run of two threads takes steps; others use some share of them."""

    def __init__(self, folder, **device):
        self.now, self.own, self.others, self.reads = 50.0, 0.0, 0.0, 0
        self.watch = CpuContention(folder, lambda: self.now, self.read)
        cpu = {"torch": torch.device("cpu"), "threads": 2, **device}
        self.trainer = types.SimpleNamespace(device=types.SimpleNamespace(**cpu), stage="fit")
        self.watch.started(self.trainer)

    def read(self):
        self.reads += 1
        return CpuTimes(self.now, self.own, ((2.0, self.own + self.others),))

    def wait(self, seconds, others=0.0):
        self.now += seconds
        self.others += others * seconds
        self.own += (2 - others) * seconds

    def steps(self, seconds, each=FAST, others=0.0):
        """Take steps for so many seconds, while others use so many cores."""
        for _ in range(round(seconds / each)):
            self.wait(each, others)
            self.watch.stepped(self.trainer)

    def end_epoch(self):
        self.watch.epoch_ended(self.trainer, None)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cpu_contention, "count_usable_cores", lambda: 2)
    return lambda **device: Machine(tmp_path / "outputs" / "run", **device)


def test_slow_steps_on_a_busy_machine_give_one_warning_with_what_helps(machine, caplog):
    one = machine()
    one.steps(40)
    one.steps(100, each=30 * FAST, others=1.0)
    assert caplog.messages == [
        "other processes use 1 of 2 cores: steps take 30 times as long as the fastest one\n"
        "  faster: Ctrl-C, then aectl train resume=outputs/run device.threads=1"
    ]


def test_steps_that_sleep_while_they_wait_are_noticed_too(machine, caplog):
    one = machine()
    one.steps(40)
    one.steps(40, each=2.4 * FAST, others=1.0)
    assert "steps take 2.4 times as long" in caplog.messages[0]


def test_a_machine_busy_from_the_start_is_noticed_by_the_few_steps_that_were_not_disturbed(machine, caplog):
    one = machine()
    for _ in range(30):
        one.steps(0.1, others=1.0)
        one.steps(1, each=0.12, others=1.0)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "what",
    [
        lambda one: one.steps(100, each=30 * FAST),  # slow, and nobody else there: a laptop that is hot
        lambda one: one.steps(100, others=1.0),  # others are there and steps as fast as before
        lambda one: one.steps(100, each=1.8 * FAST, others=1.0),
        lambda one: one.steps(100, each=30 * FAST, others=0.2),
        lambda one: (one.steps(10), one.wait(3600, others=1.0), one.steps(10)),  # one step during which it slept
        lambda one: one.steps(12, each=30 * FAST, others=1.0),  # over before the window is
    ],
    ids=["slow", "busy", "less than twice", "noise", "sleep", "short"],
)
def test_other_reasons_for_slow_steps_give_no_warning(what, machine, caplog):
    one = machine()
    one.steps(30)
    what(one)
    assert caplog.messages == []


def test_validation_and_checkpoints_are_no_steps(machine, caplog):
    one = machine()
    for _ in range(200):
        one.steps(0.3)
        one.wait(5, others=1.0)
        one.end_epoch()
        one.wait(5, others=1.0)
    assert caplog.messages == []


def test_the_steps_of_each_stage_are_compared_with_their_own(machine, caplog):
    one = machine()
    one.steps(30)
    one.trainer.stage = "larger"
    one.steps(100, each=30 * FAST, others=1.0)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "device",
    [{"threads": 1}, {"torch": torch.device("cuda")}, {"torch": torch.device("mps")}],
    ids=["one thread", "cuda", "mps"],
)
def test_where_fewer_threads_help_nothing_nothing_is_watched(device, machine, caplog):
    one = machine(**device)
    reads = one.reads
    one.steps(30)
    one.steps(100, each=30 * FAST, others=1.0)
    assert (caplog.messages, one.reads) == ([], reads)


def test_without_proc_stat_nothing_is_watched(machine, monkeypatch, caplog):
    monkeypatch.setattr(Machine, "read", lambda self: None)
    one = machine()
    one.steps(30)
    one.steps(100, each=30 * FAST, others=1.0)
    assert caplog.messages == []


def test_processes_that_train_together_are_no_others(machine, monkeypatch, caplog):
    monkeypatch.setattr(cpu_contention.parallel, "local_count", lambda: 2)
    one = machine()
    one.steps(30)
    # The sibling uses one core, as this one does.
    one.steps(60, each=30 * FAST, others=1.0)
    assert caplog.messages == []


def test_the_machine_is_asked_once_in_fifteen_seconds(machine):
    one = machine()
    before = one.reads
    one.steps(150)
    assert one.reads - before <= 2 * 150 / cpu_contention.WINDOW_SECONDS
