"""What is held out depends on each image alone: adding images moves no old one, and equal images stay together."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from aectl.data import content_split
from aectl.data.content_split import fingerprint_files, hash_array_file, hash_images, hash_positions, hold_out
from aectl.data.datasets import arrays
from aectl.data.folder import folder
from aectl.data.memmap import MappedImages

SPLITS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("AECTL_CACHE", str(tmp_path / "cache"))


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4), np.uint8)


def saved(path, images, labels=None):
    np.savez(path, x=images, **({} if labels is None else {"y": labels}))
    return str(path)


def split_of_each(dataset):
    """Return the split that each image is in, by its pixels."""
    return {
        x.numpy().tobytes(): which for which in SPLITS for part in dataset.split(which).images.split(1000) for x in part
    }


def test_equal_images_and_only_those_have_equal_hashes():
    images = torch.from_numpy(pictures(300))
    hashes = hash_images(torch.cat([images, images[:5]])[:, None])
    assert hashes.shape == (305, 2)
    assert torch.equal(hashes[300:], hashes[:5])
    assert len(set(map(tuple, hashes.tolist()))) == 300
    where = hash_positions(hashes)
    assert where.min() >= 0 and where.max() < 1
    assert where[:300].mean() == pytest.approx(0.5, abs=0.05)
    # Written down, so that a release which moves images between the splits does so knowingly.
    assert hash_positions(hash_images(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))).item() == pytest.approx(
        0.8824683751, abs=1e-9
    )


@pytest.mark.parametrize(("valid", "test"), [(0.1, 0.1), (0.25, 0.05), (0, 0.2), (0.2, 0)])
def test_adding_images_moves_none_where_shares_are_held_out(tmp_path, valid, test):
    every = pictures(400)
    before = split_of_each(arrays(saved(tmp_path / "a.npz", every[:300]), None, valid, test, split_by="content"))
    # In front, behind and in between.
    grown = np.concatenate([every[300:320], every[:100], every[320:], every[100:300]])
    after = split_of_each(arrays(saved(tmp_path / "b.npz", grown), None, valid, test, split_by="content"))
    assert all(after[image] == which for image, which in before.items())
    counts = [list(after.values()).count(which) for which in SPLITS]
    assert sum(counts) == 400
    assert counts[1:] == pytest.approx([400 * valid, 400 * test], abs=25)
    assert [bool(count) for count in counts[1:]] == [valid > 0, test > 0]


@pytest.mark.parametrize("added", [1, 7])
def test_a_count_is_exact_and_moves_at_most_as_many_as_are_added(tmp_path, added):
    every = pictures(300 + added)
    found = [
        split_of_each(arrays(saved(tmp_path / f"{n}.npz", every[:n]), None, 40, 30, split_by="content"))
        for n in (300, 300 + added)
    ]
    for one, total in zip(found, (300, 300 + added), strict=True):
        assert [list(one.values()).count(which) for which in SPLITS] == [total - 70, 40, 30]
    assert sum(found[1][image] != which for image, which in found[0].items()) <= 2 * added


def test_by_position_all_is_drawn_anew_as_for_runs_before_there_was_another_rule(tmp_path):
    every = pictures(301)
    paths = [saved(tmp_path / f"{n}.npz", every[:n]) for n in (300, 301)]
    before, after = (split_of_each(arrays(path)) for path in paths)
    assert sum(after[image] != which for image, which in before.items()) > 50
    # Written down: the splits of runs that exist.
    assert arrays(paths[0]).split("test").index[:6].tolist() == [1, 11, 23, 29, 47, 49]
    assert arrays(paths[0]).split("valid").index[:6].tolist() == [0, 4, 6, 8, 9, 36]
    assert arrays(paths[0], split_by="position").split("test").index[:6].tolist() == [1, 11, 23, 29, 47, 49]


@pytest.mark.parametrize(("valid", "test"), [(0.2, 0.2), (30, 30)])
def test_copies_of_an_image_are_in_one_split(tmp_path, valid, test):
    images = np.concatenate([pictures(100)] * 3)
    dataset = arrays(saved(tmp_path / "x.npz", images), None, valid, test, split_by="content")
    positions = [set((dataset.split(which).index % 100).tolist()) for which in SPLITS]
    assert sum(map(len, positions)) == 100
    assert sum(len(dataset.split(which)) for which in SPLITS) == 300
    assert all(positions)


@pytest.mark.parametrize("n", range(3, 12))
def test_of_a_small_set_some_image_is_in_each_split(tmp_path, n):
    dataset = arrays(saved(tmp_path / "x.npz", pictures(n)), split_by="content")
    assert all(len(dataset.split(which)) for which in SPLITS)


def test_images_that_are_all_equal_are_split_by_their_position(tmp_path):
    dataset = arrays(saved(tmp_path / "x.npz", np.zeros((20, 4, 4), np.uint8)), None, 0.1, 4, split_by="content")
    assert [len(dataset.split(which)) for which in SPLITS] == [14, 2, 4]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_image_is_left_to_train_on_whatever_is_held_out(tmp_path, n):
    path = saved(tmp_path / "x.npz", pictures(n))
    assert len(arrays(path, split_by="content").split("train"))


def test_few_labels_stay_with_their_images(tmp_path):
    every, labels = pictures(330), np.arange(330) % 3
    known = []
    for n in (300, 330):
        path = saved(tmp_path / f"{n}.npz", every[:n], labels[:n])
        train = arrays(path, labels=60, split_by="content").split("train")
        kept = train.labels >= 0
        assert train.labels[kept].bincount().tolist() == [20, 20, 20]
        assert torch.equal(train.labels[kept], torch.from_numpy(labels)[train.index[kept]])
        known.append(set(train.index[kept].tolist()))
    assert len(known[0] - known[1]) <= 30 < len(known[0] & known[1])


def test_a_folder_is_split_by_the_files_whatever_their_names_and_size(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number, image in enumerate(pictures(60)):
        Image.fromarray(image).save(root / f"{number:02}.png")
    before = split_of_each(folder(str(root), size=4, split_by="content"))
    # A name that comes first, and copies.
    Image.fromarray(pictures(1, seed=1)[0]).save(root / "a.png")
    (root / "copy.png").write_bytes((root / "07.png").read_bytes())
    dataset = folder(str(root), size=4, split_by="content")
    after = split_of_each(dataset)
    assert all(after[image] == which for image, which in before.items())
    assert len(after) == 61 and sum(len(dataset.split(which)) for which in SPLITS) == 62
    larger = folder(str(root), size=8, split_by="content")
    assert all(torch.equal(larger.split(which).index, dataset.split(which).index) for which in SPLITS)


@pytest.mark.parametrize("make", [arrays, folder])
def test_another_rule_is_refused(tmp_path, make):
    with pytest.raises(ValueError, match="split_by must be content or position, not 'time'"):
        make(str(tmp_path), split_by="time")


def test_hashes_of_a_large_file_are_kept_until_it_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(content_split, "CACHED_BYTES", 100)
    path, images = tmp_path / "x.npy", pictures(50)[:, None]
    np.save(path, images)
    asked = []
    monkeypatch.setattr(content_split, "hash_images", lambda found: asked.append(1) or hash_images(found))
    mapped = MappedImages(np.load(path, mmap_mode="r"))
    first = hash_array_file(path, mapped)
    assert torch.equal(hash_array_file(path, mapped), first) and len(asked) == 1
    stat = path.stat()
    changed = np.load(path, mmap_mode="r+")
    changed[3] = 0
    changed.flush()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = hash_array_file(path, MappedImages(np.load(path, mmap_mode="r")))
    assert len(asked) == 2
    assert (first != second).any(1).nonzero().flatten().tolist() == [3]


def test_without_a_cache_that_can_be_written_to_hashes_are_computed_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(content_split, "CACHED_BYTES", 100)
    monkeypatch.setenv("AECTL_CACHE", "/dev/null/nowhere")
    np.save(tmp_path / "x.npy", pictures(50)[:, None])
    mapped = MappedImages(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert torch.equal(hash_array_file(tmp_path / "x.npy", mapped), hash_images(mapped))


def test_a_file_that_is_replaced_by_one_of_its_size_and_time_is_another(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"one")
    stat, before = path.stat(), fingerprint_files([path])
    assert fingerprint_files([path]) == before != fingerprint_files([path], (1, 8, 8))
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint_files([path]) != before


@pytest.mark.parametrize(
    ("amount", "held"), [(0, []), (0.25, [1, 3]), (2, [1, 3]), (0.01, [3]), (3, [1, 3, 0]), (0.95, [0, 1, 3])]
)
def test_the_lowest_places_are_held_out(amount, held):
    found = hold_out(torch.tensor([0.3, 0.1, 0.9, 0.05]), amount)
    assert sorted(found.nonzero().flatten().tolist()) == sorted(held)
