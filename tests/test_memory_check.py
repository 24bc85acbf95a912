"""What there is no room for is refused before it is made."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aectl.data import array_files, resize_cache
from aectl.data.downloads import DataError
from aectl.system import memory_check
from aectl.system.machine import NotEnoughMemory, group_bytes, memory_bytes
from aectl.system.memory_check import MemoryLimit, check_images, check_training, format_bytes
from aectl.system.terminal import escape_unprintable, shorten_message


@pytest.fixture
def small(monkeypatch):
    """A machine of a megabyte."""
    monkeypatch.setattr(memory_check, "memory_bytes", lambda: 1e6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(10**6),
        lambda: torch.zeros(10**13),
        lambda: torch.rand(10**12, generator=torch.Generator()),
        lambda: torch.arange(10**12),
        lambda: torch.zeros(2**62, 2**62),
        lambda: torch.zeros(2**64),
        lambda: torch.ones(3).repeat(10**12),
        lambda: torch.ones(3).new_zeros(10**12),
        lambda: torch.arange(3).repeat_interleave(10**12),
        lambda: nn.Linear(10**6, 10**6),
        lambda: nn.functional.conv2d(torch.ones(1, 1, 9, 9), torch.ones(10**4, 1, 3, 3)),
        lambda: torch.ones(10**3, 1) @ torch.ones(1, 10**3),
        lambda: nn.functional.pad(torch.ones(1, 1, 2, 2), (10**6,) * 4),
        lambda: torch.arange(3).expand(10**12, -1).int(),
        lambda: [torch.empty(1000) for _ in range(1000)],
        lambda: copy.deepcopy(nn.Linear(300, 500)),
    ],
)
def test_what_is_larger_than_memory_is_refused_before_it_is_made(make, small):
    with pytest.raises(NotEnoughMemory, match=r"^it: .* need .*, this machine has 1 MB$"), MemoryLimit("it"):
        make()


def test_what_fits_is_made_as_it_would_be_without(small):
    made = []
    for within in (MemoryLimit("it"), torch.no_grad()):
        torch.manual_seed(0)
        with within:
            net = nn.Sequential(nn.Linear(30, 50), nn.BatchNorm1d(50))
            made.append([*net.state_dict().values(), torch.rand(5), torch.randperm(9)])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_sizes_are_scaled_and_added_up_only_where_told(small):
    with MemoryLimit("it", total=False):
        for _ in range(9):
            torch.empty(200_000)
    with (
        pytest.raises(NotEnoughMemory, match="it: at least 2,000,000 numbers need 8 MB"),
        MemoryLimit("it", scale=10, total=False),
    ):
        torch.empty(200_000)


def test_gradients_and_the_optimizer_count_too(small):
    check_training(nn.Linear(100, 600), "cpu")
    with pytest.raises(NotEnoughMemory, match=r"model: 70,700 weights need 1\.13 MB to train, this machine has 1 MB"):
        check_training(nn.Linear(100, 700), "cpu")
    check_training(nn.Linear(100, 700).requires_grad_(False), "cpu")


def test_images_are_counted(small):
    check_images("n", 70, (1, 28, 28), "cpu")
    with pytest.raises(NotEnoughMemory, match=r"n: 1,000 images of 784 pixels need 12\.5 MB"):
        check_images("n", 1000, (1, 28, 28), "cpu")


@pytest.mark.parametrize(
    ("size", "text"),
    [(12, "12 bytes"), (999.6, "1 kB"), (24e9, "24 GB"), (12.544e12, "12.5 TB"), (4e24, "4,000,000 EB")],
)
def test_sizes_in_words(size, text):
    assert format_bytes(size) == text


def test_the_machine_has_some_memory():
    assert 1e8 < memory_bytes() < math.inf


def test_limits_of_control_groups_are_found(tmp_path):
    listed = tmp_path / "cgroup"
    listed.write_text("12:cpu:/x\n5:memory:/a/b\n0::/c/d\n")
    for place, value in {
        "memory/a/memory.limit_in_bytes": "500",
        "c/d/memory.max": "max",
        "c/memory.max": "300",
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(value + "\n")
    assert sorted(group_bytes(listed, tmp_path)) == [300, 500]
    assert list(group_bytes(tmp_path / "nowhere", tmp_path)) == []


def test_pictures_that_the_disk_has_no_room_for_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"take 10,000,000,000,000,000 bytes, but .* free"):
        resize_cache.check_space(tmp_path / "x.npy", 10**6, (1, 10**5, 10**5))
    with pytest.raises(DataError, match="bytes of memory"):
        resize_cache.check_space(Path(tmp_path / "x.npy"), 0, (1, 10**6, 10**6))


def test_archives_that_are_larger_unpacked_than_memory_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((100, 100, 100), np.uint8))
    assert array_files.read_array_file(tmp_path / "x.npz")["all"].pixels.shape == (100, 1, 100, 100)
    monkeypatch.setattr(array_files, "memory_bytes", lambda: 1e5)
    with pytest.raises(DataError, match=r"x.npz unpacks to 1,000,128 bytes, but this machine has 100,000 bytes"):
        array_files.read_array_file(tmp_path / "x.npz")


def test_a_message_is_a_line_or_two_of_what_can_be_shown():
    assert escape_unprintable("a\x1b[31m\n\u202eé日\udc80") == r"a\x1b[31m\n\u202eé日\udc80"
    assert shorten_message("no 'a\nb'\n  there are: c") == "no 'a\\nb'\n  there are: c"
    assert shorten_message("no 'a\n  b'\n  there are: c") == "no 'a\\n  b'\n  there are: c"
    assert shorten_message("one\ntwo\nthree") == r"one\ntwo\nthree"
    long = shorten_message("x" * 10_000 + "end")
    assert len(long) == 400 and long.endswith("end") and " … " in long
