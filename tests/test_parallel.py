"""Processes that train one model together: what they come to, what they leave, and how they end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aectl.rng import Rng
from tests.training.together import RUNS
from tests.typed import record, rows, wait_until

ROOT = Path(__file__).parents[1]
SMALL = ("model=gan", "model.generator.widths=[32]", "model.discriminator.widths=[32]", "optimizer=sgd")
QUICK = ("dataset=digits", *SMALL, "batch_size=64", "device=cpu", "device.threads=1")
PLACE = {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def begin(*words, launcher=("-m", "aectl"), **place):
    environment = {**os.environ, **PLACE, **{name: str(value) for name, value in place.items()}}
    command = [sys.executable, *launcher, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def end(process):
    said = process.communicate(timeout=240)[0]
    return process.returncode, said


def children(pid):
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid):
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def numbers(folder):
    """Return metrics.csv as numbers, without the names of stages."""
    return [[float(value) for key, value in row.items() if key != "stage"] for row in rows(folder)]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Return what a few steps of every model come to in one process and in two."""
    folder = tmp_path_factory.mktemp("steps")
    script = (str(ROOT / "tests/training/together.py"),)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}
    two = [begin(folder / "two.pt", launcher=script, RANK=number, **place) for number in range(2)]
    assert [end(process) for process in two] == [(0, "")] * 2
    assert end(begin(folder / "one.pt", launcher=script)) == (0, "")
    return [torch.load(folder / name, weights_only=True) for name in ("one.pt", "two.pt")]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_come_to_what_one_comes_to(steps, name):
    one, two = (found[name] for found in steps)
    for key, value in one["weights"].items():
        torch.testing.assert_close(
            two["weights"][key], value, rtol=1e-5, atol=1e-5, msg=lambda text, at=key: f"{at}: {text}"
        )
    # The loss of a Boltzmann machine is the difference of two energies of about 50 nats.
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4, abs=2e-4)


def test_parts_of_a_draw_are_those_of_the_whole():
    whole, parts = Rng(3), [Rng(3, part=number, parts=2) for number in range(2)]
    for draw in (
        lambda rng, n: rng.normal(n, 5),
        lambda rng, n: rng.uniform(3, n, batch=1).T,
        lambda rng, n: rng.bernoulli(torch.full((n, 7), 0.3)),
    ):
        assert torch.equal(torch.cat([draw(rng, 4) for rng in parts]), draw(whole, 8))
    assert [torch.equal(rng.whole.normal(6), drawn) for drawn in [whole.normal(6)] for rng in parts] == [True] * 2
    assert all(torch.equal(rng.state(), whole.state()) for rng in parts)
    assert torch.equal(parts[1].fork("a").normal(2), whole.fork("a").normal(4)[2:])


@pytest.mark.slow
def test_one_run_is_shared_by_two_processes(aectl):
    words = ("train", *QUICK, "epochs=2")
    assert aectl(*words, "hydra.run.dir=one")[0] == 0
    code, said = end(begin(*words, "device.count=2", "hydra.run.dir=two"))
    assert code == 0 and said.count("epoch 2/2") == 1, said
    code, said = end(
        begin(
            *("--standalone", "--nproc-per-node", "2", "-m", "aectl", *words, "hydra.run.dir=run"),
            launcher=("-m", "torch.distributed.run"),
        )
    )
    assert code == 0 and said.count("epoch 2/2") == 1, said
    assert [record(Path(name))["device"]["processes"] for name in ("one", "two", "run")] == [1, 2, 2]
    for name in ("two", "run"):
        assert sorted(path.name.partition(".vm")[0][:6] for path in Path(name).iterdir()) == sorted(
            path.name.partition(".vm")[0][:6] for path in Path("one").iterdir()
        )
        assert len(numbers(Path(name))) == 2
        for ours, alone in zip(numbers(Path(name)), numbers(Path("one")), strict=True):
            assert ours == pytest.approx(alone, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_stopped_together_and_resumed_it_is_as_if_nothing_had_happened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", *QUICK, "epochs=20", "device.count=2")
    process = begin(*words, "hydra.run.dir=cut")
    wait_until(lambda: Path("cut/metrics.csv").exists() and len(Path("cut/metrics.csv").read_text().splitlines()) > 3)
    # The leader alone is told; the other stops at the same step.
    process.send_signal(signal.SIGTERM)
    code, said = end(process)
    assert code == 143 and "stopped by SIGTERM" in said, said
    assert record(Path("cut"))["status"] == "interrupted" and len(rows(Path("cut"))) < 20
    assert end(begin("train", "resume=cut"))[0] == 0
    assert end(begin(*words, "hydra.run.dir=whole"))[0] == 0
    assert rows(Path("cut")) == rows(Path("whole"))


@pytest.mark.slow
def test_when_one_is_gone_the_others_end_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", *QUICK, "epochs=100000")
    # Of four processes the last one waits for the dead one, not for the leader.
    for name, count, victim in (("follower", 4, lambda pid: children(pid)[0]), ("leader", 2, lambda pid: pid)):
        process = begin(*words, f"device.count={count}", f"hydra.run.dir={name}")
        wait_until(lambda at=name: Path(at, "metrics.csv").exists())
        family = [process.pid, *children(process.pid)]
        assert len(family) == count
        os.kill(victim(process.pid), signal.SIGKILL)
        code, said = end(process)
        assert code == (2 if name == "follower" else -signal.SIGKILL)
        wait_until(lambda pids=family: all(is_gone(pid) for pid in pids), 60)
        if name == "follower":
            assert "process 1 has ended early, with code -9" in said and "Traceback" not in said, said
            assert record(Path(name))["status"] == "failed"
            assert record(Path(name))["error"] == "process 1 has ended early, with code -9"


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused(aectl, tmp_path, monkeypatch):
    words = ("train", *QUICK, "hydra.run.dir=none")
    code, *said = aectl(*words, "batch_size=63", "device.count=2")
    assert (code, *said) == (2, "", "aectl: batch_size: 2 processes cannot share 63 images evenly\n")
    code, *said = aectl(*words, "device.count=0")
    assert (code, *said) == (2, "", "aectl: device: count must be at least 1, not 0\n")
    assert tmp_path.is_dir() and not Path("none").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    code, out, err = aectl(*words, "-m", "seed=0,1")
    assert code == 2 and err.startswith("aectl: torchrun trains one run at a time") and not out
    code, *said = aectl(*words, "device.count=3")
    assert (code, *said) == (2, "", "aectl: device.count=3, but torchrun has started 2 processes\n")
