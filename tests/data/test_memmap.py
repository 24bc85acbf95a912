"""Images that stay in their file: the same as in memory, without taking it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aectl.data import memmap
from aectl.data.datasets import arrays
from aectl.data.memmap import MappedImages
from aectl.evaluation.context import digest

SPLITS = ("train", "valid", "test")


def both(folder, shape, dtype):
    """Return the data sets of the same images in a file that is mapped and in one that is loaded."""
    values = np.random.default_rng(0).random(shape)
    images = (values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(dtype)
    np.save(folder / "mapped.npy", images)
    np.savez(folder / "loaded.npz", x=images)
    return [arrays(str(folder / name), valid=20, test=30) for name in ("mapped.npy", "loaded.npz")]


@pytest.mark.parametrize("shape", [(200, 4, 5), (200, 3, 4, 5), (200, 4, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_splits_and_batches_are_those_of_the_images_in_memory(tmp_path, shape, dtype):
    there, here = both(tmp_path, shape, dtype)
    for which in SPLITS:
        one, other = there.split(which), here.split(which)
        assert isinstance(one.images, MappedImages) and isinstance(other.images, torch.Tensor)
        assert (one.shape, one.images.shape, one.images.dtype) == (other.shape, other.images.shape, other.images.dtype)
        indices = torch.arange(len(one)).flip(0)[:7]
        for a, b in zip(one.batch(indices), other.batch(indices), strict=True):
            assert torch.equal(a, b) and a.is_contiguous()
        assert torch.equal(one.pixels(), other.pixels())
        assert torch.equal(one.take(indices).batch(torch.tensor([2, 0])).x, other.batch(indices[[2, 0]]).x)
        assert digest(one) == digest(other)


@pytest.mark.parametrize(
    "array", [np.zeros((8, 4, 4)), np.zeros((8, 4, 4), ">f4"), np.asfortranarray(np.zeros((8, 4, 4), np.uint8))]
)
def test_numbers_that_must_be_changed_are_in_memory(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    assert isinstance(arrays(str(tmp_path / "x.npy")).split("train").images, torch.Tensor)


def test_a_run_comes_to_the_same_weights(aectl, tmp_path):
    both(tmp_path, (200, 8, 8), np.uint8)
    words = ("model=vae", "model.encoder.widths=[16]", "model.decoder.widths=[16]", "dataset=arrays")
    found = []
    for name in ("mapped.npy", "loaded.npz"):
        run = tmp_path / "runs" / name
        settings = ("batch_size=32", "epochs=3", "device=cpu", f"hydra.run.dir={run}")
        assert aectl("train", *words, f"dataset.path={tmp_path / name}", *settings)[0] == 0
        found.append(torch.load(run / "checkpoints/last.pt", weights_only=True)["model"])
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_they_move_to_a_device_that_has_room_for_twice_as_many(tmp_path, monkeypatch):
    source = both(tmp_path, (200, 4, 5), np.uint8)[0].split("train")
    assert source.images.nbytes == 150 * 20
    monkeypatch.setattr(memmap, "count_free_bytes", lambda device: 2 * 150 * 20)
    assert isinstance(source.to("cpu").images, MappedImages)
    monkeypatch.setattr(memmap, "count_free_bytes", lambda device: 2 * 150 * 20 + 1)
    moved = source.to("cpu")
    assert isinstance(moved.images, torch.Tensor) and moved.images.dtype == torch.uint8
    assert torch.equal(moved.pixels(), source.pixels())


def sparse(path, shape):
    """Write a file of zeros that takes no room on the disk; skips where the file system cannot."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        try:
            file.truncate(file.tell() + int(np.prod(shape)))
        except OSError:
            pytest.skip("the file system refuses such a file")
    return path


def test_a_file_may_be_larger_than_memory(tmp_path):
    images = sparse(tmp_path / "x.npy", (60_000, 4096, 4096))
    train = arrays(str(images)).split("train")
    assert train.images.nbytes > 800e9
    assert train.batch(torch.tensor([47_999])).x.shape == (1, 1, 4096, 4096)


MEASURED = """
import re, sys, threading, time
from pathlib import Path
import aectl.commands.train
from aectl.cli import main as cli

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.005)

before = anonymous()
peak = [before]
threading.Thread(target=watch, daemon=True).start()
cli.main()
print("MiB", peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
def test_training_takes_a_fraction_of_the_file_s_size(tmp_path):
    images = sparse(tmp_path / "x.npy", (800_000, 28, 28))
    words = ("train", "model=linear", "model.code=2", "dataset=arrays", f"dataset.path={images}", "batch_size=2048")
    words += ("epochs=1", "device=cpu", "device.threads=1", f"hydra.run.dir={tmp_path / 'run'}")
    command = [sys.executable, "-c", MEASURED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    taken = float(done.stdout.splitlines()[-1].removeprefix("MiB "))
    assert taken < 800_000 * 28 * 28 / 2**20 / 3
