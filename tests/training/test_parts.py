"""Schedules, the meter, checkpoints, devices and interruptions, one by one."""

import os
import signal
from functools import partial

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from aectl import parallel
from aectl.models.base import Batch, Model
from aectl.system.terminal import format_significant
from aectl.training import checkpoint
from aectl.training import device as devices
from aectl.training.checkpoint import CheckpointError
from aectl.training.device import THREAD_VARIABLES, Device
from aectl.training.meter import Meter
from aectl.training.schedule import Constant, Cosine, Steps
from aectl.training.step_cost import count_multiplications
from aectl.training.stop_signals import SIGNALS, Interruption


def test_constant_warms_up_linearly_then_stays():
    schedule = Constant(warmup=0.1)
    assert [schedule(i, 100) for i in (0, 4, 9, 50, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1])


def test_cosine_warms_up_then_falls_to_its_floor():
    schedule = Cosine(warmup=0.1, floor=0.2)
    factors = [schedule(i, 100) for i in range(100)]
    assert max(factors) == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.6, abs=0.02)
    assert factors[99] == pytest.approx(0.2, abs=0.01)
    assert Cosine()(0, 100) == 1.0


def test_steps_hold_each_factor_for_its_share_of_the_run():
    schedule = Steps([1, 0.5, 0.1], [1, 2, 7])
    assert [schedule(i, 10) for i in range(12)] == [1, 0.5, 0.5, *[0.1] * 9]
    counts = [schedule(i, 3280) for i in range(3280)]
    assert [counts.count(factor) for factor in (1, 0.5, 0.1)] == [328, 656, 2296]
    warming = Steps([1, 0.5], [1, 1], warmup=0.2)
    assert [warming(i, 10) for i in range(10)] == pytest.approx([0.5, *[1] * 5, *[0.5] * 4])


def test_the_published_schedule_has_eight_rates_for_powers_of_three_epochs():
    lengths = [3**i for i in range(8)]
    schedule = Steps([round(10 ** (1 - i / 7), 1) / 10 for i in range(8)], lengths)
    steps_per_epoch = 5
    found = [schedule(i, 3280 * steps_per_epoch) for i in range(3280 * steps_per_epoch)]
    assert [found.count(factor) for factor in schedule.factors] == [5 * length for length in lengths]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("settings", [([], []), ([1], [1, 2]), ([-1, 1], [1, 1]), ([1, 0.1], [0, 1])])
def test_steps_that_make_no_schedule_are_refused(settings):
    with pytest.raises(ValueError, match="factors"):
        Steps(*settings)


@pytest.mark.parametrize("make", [Constant, Cosine, partial(Steps, [1], [1])])
def test_shares_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="warmup"):
        make(warmup=1.5)


def test_the_meter_means_what_it_was_given_and_names_the_first_bad_term():
    meter = Meter()
    for i in range(4):
        nan = torch.tensor(float("nan") if i >= 2 else 1.0)
        meter.add({"a": torch.tensor(float(i)), "b": nan})
        restored = Meter()
        restored.restore(meter.state())
        meter = restored
    assert meter.means()["a"] == 1.5
    assert meter.first_bad() == (2, "b")


def test_checkpoints_come_back_and_leave_nothing_aside(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"x": torch.arange(3), "n": 1.5, "s": "text", "d": {"k": [1, 2]}})
    state = checkpoint.load(tmp_path / "a.pt")
    assert state["n"] == 1.5
    assert state["d"] == {"k": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"<html>", lambda b: b"", lambda b: b[1:]])
def test_damaged_checkpoints_are_named_and_nothing_in_them_runs(tmp_path, damage):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"x": torch.arange(1000)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged"):
        checkpoint.load(path)


class Attack:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-never-exist",)


def test_a_pickled_call_is_refused(tmp_path):
    torch.save({"format": 1, "x": Attack()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_newer_format_is_refused(tmp_path):
    torch.save({"format": 99}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="newer aectl"):
        checkpoint.load(tmp_path / "a.pt")


def test_an_absent_device_names_the_choices():
    with pytest.raises(ValueError, match=r"no device 'tpu' on this machine, choose from auto, .*cpu"):
        Device("tpu")


@pytest.mark.parametrize(("arguments", "message"), [({"precision": "fp8"}, "precision"), ({"threads": 0}, "threads")])
def test_devices_refuse_what_they_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        Device("cpu", **arguments)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_remembered_and_handlers_put_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.reason is None
        os.kill(os.getpid(), number)
        assert interruption.reason == name
    assert signal.getsignal(number) == before


def test_time_runs_out():
    with Interruption(max_seconds=0) as interruption:
        assert interruption.reason == "max_time"
    with Interruption(max_seconds=60) as interruption:
        assert interruption.reason is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0168312, "0.01683"), (12.3456, "12.35"), (1234.56, "1235"), (0.0, "0"), (1e-9, "1e-09"), (100.0, "100.0")],
)
def test_numbers_are_shown_in_four_significant_digits(value, text):
    assert format_significant(value) == text


def test_a_step_too_small_to_be_shared_gets_one_thread_unless_told(monkeypatch):
    monkeypatch.setattr(devices, "count_idle_cores", lambda: 2)
    for told, work, threads in ((None, 1e3, 1), (None, 1e9, 2), (3, 1e3, 3)):
        device = Device("cpu", threads=told)
        device.adapt_threads(work)
        assert device.threads == device.describe()["threads"] == threads
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("idle", "leader", "processes", "threads"), [(1, 1, 1, 1), (6, 6, 1, 6), (7, 6, 2, 3), (2, 1, 2, 1)]
)
def test_processes_that_train_together_share_the_idle_cores_of_the_leader(
    idle, leader, processes, threads, monkeypatch
):
    monkeypatch.setattr(devices, "count_idle_cores", lambda: idle)
    monkeypatch.setattr(parallel, "local_count", lambda: processes)
    met = []
    monkeypatch.setattr(parallel, "wait_for_all", lambda: met.append(True))
    monkeypatch.setattr(parallel, "broadcast_numbers", lambda numbers: {name: float(leader) for name in numbers})
    assert Device("cpu").threads == threads
    assert met == [True]


def test_libraries_of_numbers_get_the_threads_of_the_device(monkeypatch):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    threadpool_limits(2)
    watched = []
    monkeypatch.setattr(devices.process_watch, "start", watched.append)
    Device("cpu", threads=1).apply()
    assert watched == [1]
    assert {one["num_threads"] for one in threadpool_info()} == {1}
    # Those that are loaded later, such as scikit-learn's, read the environment.
    assert {os.environ[name] for name in THREAD_VARIABLES} == {"1"}


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (nn.Linear(6, 5), 6 * 5),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, (1, 2)), nn.Flatten()), 4 * 2 * 2 * 2),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.ConvTranspose2d(1, 4, 1), nn.Flatten()), 4 * 6),
    ],
)
def test_multiplications_are_counted_for_each_image(layer, count):
    class Net(Model):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def validate(self, batch, rng):
            assert not self.training
            return {"loss": self.layer(batch.x).sum()}

    model = Net().train()
    batch = Batch(torch.zeros(7, 6), torch.zeros(7), torch.arange(7))
    assert count_multiplications(model, batch) == max(count, sum(p.numel() for p in model.parameters()))
    assert model.training and not layer._forward_hooks
