"""A long run with every observer on: memory, open files, event files and the time of an epoch stay as they are."""

import statistics
import time
from itertools import pairwise
from pathlib import Path

import pytest

from aectl.commands import train as train_command
from aectl.training.metrics_csv import read_metrics_csv
from aectl.training.trainer import Observer
from tests.faults.small import NARROW

PROC = Path("/proc/self")
PAGE = 4096
FEW = ("dataset.valid=64", "dataset.test=1605", "batch_size=64")
"""128 images to train on, in two steps, and 64 to validate on: an epoch takes about 30 ms, most of it observers."""

pytestmark = pytest.mark.skipif(not (PROC / "statm").is_file(), reason="memory and open files are read from /proc")


class Watch(Observer):
    """Notes, behind the other observers, what the process holds at each epoch, and the sizes of its files."""

    def __init__(self, folder):
        self.folder = folder
        self.memory, self.files, self.events, self.seconds = [], [], [], []

    def epoch_ended(self, trainer, epoch):
        self.memory.append(int((PROC / "statm").read_text().split()[1]) * PAGE)
        self.files.append(len(list((PROC / "fd").iterdir())))
        self.events.append(sum(path.stat().st_size for path in self.folder.glob("events.out.tfevents.*")))
        self.seconds.append(time.process_time())


@pytest.fixture
def watched(aectl, tmp_path, monkeypatch):
    """Return a function that trains for so many epochs; it returns what was seen, and the run's folder."""
    usual = train_command.build_observers

    def train(epochs):
        watch = Watch(tmp_path / "run")
        monkeypatch.setattr(train_command, "build_observers", lambda *arguments: (*usual(*arguments), watch))
        words = ("model=undercomplete", "dataset=digits", *FEW, *NARROW, f"epochs={epochs}", "schedule=constant")
        code, out, err = aectl("train", *words, "device=cpu", "device.threads=1", f"hydra.run.dir={watch.folder}")
        assert code == 0, out + err
        assert out.count("val/loss") >= epochs
        return watch

    return train


def growth(numbers):
    """Return how much is added at each epoch."""
    return [after - before for before, after in pairwise(numbers)]


def test_nothing_grows(watched, torture, tally):
    epochs = 2000 if torture else 60
    watch = watched(epochs)
    assert len(set(watch.files[epochs // 10 :])) == 1, watch.files
    written = growth(watch.events)[epochs // 10 :]
    early, late = written[: len(written) // 2], written[len(written) // 2 :]
    assert statistics.fmean(late) == pytest.approx(statistics.fmean(early), rel=0.05)
    assert [int(row["epoch"]) for row in read_metrics_csv(watch.folder / "metrics.csv")[1]] == list(
        range(1, epochs + 1)
    )
    assert not list(watch.folder.glob("**/.*.aside"))
    if not torture:
        return
    memory = statistics.fmean(watch.memory[-200:]) / statistics.fmean(watch.memory[200:400])
    spent = growth(watch.seconds)
    slower = statistics.median(spent[-500:]) / statistics.median(spent[200:700])
    print(f"memory {memory:.4f}, CPU time {slower:.3f}, {1000 * statistics.median(spent):.1f} ms an epoch,")
    print(f"{watch.memory[-1] / 2**20:.0f} MB, {statistics.fmean(written):.0f} bytes of events an epoch")
    assert memory < 1.05
    assert slower < 1.25
    tally("epochs in one go", epochs)
