"""Splits are disjoint, fixed and lazy; files of one's own are read, or refused with a reason."""

import hashlib
import math
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from aectl.data import datasets, downloads

TRAINING, TESTING = 40, 10


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with a small MNIST: image i is all i, and its class is i modulo 10."""
    content = {}
    for prefix, n in (("train", TRAINING), ("t10k", TESTING)):
        numbers = np.arange(n)
        content[f"{prefix}-images-idx3-ubyte"] = idx(np.broadcast_to(numbers[:, None, None], (n, 28, 28)))
        content[f"{prefix}-labels-idx1-ubyte"] = idx(numbers % 10)
    return install(tmp_path, monkeypatch, content)


def install(folder, monkeypatch, content):
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    small = {name: replace(one, digests=digests) for name, one in downloads.COLLECTIONS.items()}
    monkeypatch.setattr(downloads, "COLLECTIONS", small)
    monkeypatch.setattr(downloads, "list_sources", lambda name: iter(()))
    monkeypatch.setattr(datasets, "TRAINING_IMAGES", TRAINING)
    for name in ("MNIST", "FashionMNIST"):
        raw = folder / name / "raw"
        raw.mkdir(parents=True)
        for file, data in content.items():
            (raw / file).write_bytes(data)
    return str(folder)


def positions(dataset, which):
    return set(dataset.split(which).index.tolist())


@pytest.mark.parametrize("function", [datasets.mnist, datasets.fashion_mnist])
def test_splits_partition_the_training_file(root, function):
    dataset = function(root, valid=8)
    train, valid, test = (dataset.split(which) for which in ("train", "valid", "test"))
    assert (len(train), len(valid), len(test)) == (32, 8, 10)
    assert positions(dataset, "train") | positions(dataset, "valid") == set(range(TRAINING))
    assert (dataset.shape, dataset.classes) == (train.shape, train.classes) == ((1, 28, 28), 10)
    assert train.images.dtype == torch.uint8
    assert torch.equal(train.images[:, 0, 5, 7], train.index)
    assert torch.equal(train.labels, train.index % 10)
    assert train.labels.dtype == train.index.dtype == torch.int64


def test_what_is_held_out_never_changes(root):
    torch.manual_seed(1)
    first = datasets.mnist(root, valid=5).split("valid").index
    torch.manual_seed(2)
    assert torch.equal(first, datasets.mnist(root, valid=5).split("valid").index)
    assert first.tolist() == sorted(first.tolist())
    # Written down, so that a release which changes what runs are measured on does so knowingly.
    assert datasets.digits().split("valid").index[:5].tolist() == [6, 9, 14, 18, 23]
    assert datasets.digits().split("test").index[:5].tolist() == [3, 8, 10, 22, 25]


def test_a_batch_has_pixels_labels_and_positions(root):
    source = datasets.mnist(root, valid=8).split("train")
    batch = source.batch(torch.tensor([3, 0, 3]))
    assert batch.x.shape == (3, 1, 28, 28)
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.index, source.index[[3, 0, 3]])
    assert torch.equal(batch.y, batch.index % 10)
    assert torch.allclose(batch.x[:, 0, 0, 0], batch.index / 255)
    assert torch.equal(source.pixels()[[3, 0, 3]], batch.x)


def test_every_byte_stays_within_the_unit_interval():
    images = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    source = datasets.Source(images, torch.zeros(256), torch.arange(256), 1 / 255, 1)
    assert source.pixels().flatten()[[0, -1]].tolist() == [0, 1]
    assert source.pixels().max() <= 1
    assert source.to("meta").images.device.type == "meta"


def test_no_validation_images_is_allowed_and_a_share_is_a_count(root):
    assert len(datasets.mnist(root, valid=0).split("valid")) == 0
    assert len(datasets.mnist(root, valid=0).split("train")) == TRAINING
    assert positions(datasets.mnist(root, valid=0.2), "valid") == positions(datasets.mnist(root, valid=8), "valid")


@pytest.mark.parametrize("valid", [-1, TRAINING, 1.5, float("nan"), float("inf"), "many", None, True])
def test_valid_out_of_range_is_refused_at_once(valid):
    with pytest.raises(ValueError, match=r"^valid must be .*, not "):
        datasets.digits(test=1797 - TRAINING, valid=valid)


def test_excluded_classes_are_in_their_own_split_and_in_the_test_set(root):
    whole, dataset = datasets.mnist(root, valid=8), datasets.mnist(root, valid=8, exclude=[3, 7])
    assert set(dataset.split("excluded").labels.tolist()) == {3, 7}
    assert len(dataset.split("excluded")) == 8
    for which in ("train", "valid"):
        gone = {i for i in positions(whole, which) if i % 10 in (3, 7)}
        assert positions(dataset, which) == positions(whole, which) - gone
    assert len(dataset.split("test")) == TESTING
    assert len(whole.split("excluded")) == 0


@pytest.mark.parametrize("exclude", [[10], [-1], ["3"], [True], 3, "3", list(range(10))])
def test_exclude_is_checked(exclude):
    with pytest.raises(ValueError, match=r"^exclude must .*not "):
        datasets.mnist(exclude=exclude)


def test_the_test_files_are_read_only_when_asked_for(root, tmp_path):
    for file in (tmp_path / "MNIST" / "raw").glob("t10k*"):
        file.write_bytes(b"")
    dataset = datasets.mnist(root, valid=8)
    assert len(dataset.split("train")) == 32
    with pytest.raises(downloads.DataError, match="t10k"):
        dataset.split("test")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be one of train, valid, test, excluded, not 'dev'"):
        datasets.digits().split("dev")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros(9)), "raw/train-images-idx3-ubyte is not an IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "train-images-idx3-ubyte is not an IDX file"),
        (
            "train-labels-idx1-ubyte",
            idx(np.zeros(9))[:-1],
            "train-labels-idx1-ubyte has 8 values, but its header says 9",
        ),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, monkeypatch, name, content, message):
    files = {"train-images-idx3-ubyte": idx(np.zeros((9, 28, 28))), "train-labels-idx1-ubyte": idx(np.zeros(9))}
    root = install(tmp_path, monkeypatch, files | {name: content})
    with pytest.raises(downloads.DataError, match=message):
        datasets.mnist(root, valid=0).split("train")


def test_digits_are_what_scikit_learn_has():
    dataset = datasets.digits()
    parts = [dataset.split(which) for which in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [1287, 150, 360]
    assert sorted(i for part in parts for i in part.index.tolist()) == list(range(1797))
    pixels = torch.cat([part.pixels() for part in parts])
    assert pixels.shape[1:] == dataset.shape == (1, 8, 8)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert pixels.mean().item() == pytest.approx(0.3053, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3760, abs=1e-4)
    assert torch.cat([part.labels for part in parts]).bincount().tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]
    assert all(part.labels.bincount(minlength=10).min() > 0 for part in parts)


def test_one_s_own_test_split_can_be_empty():
    assert len(datasets.digits(test=0).split("test")) == 0
    with pytest.raises(ValueError, match="test must be a count from 0 to 1,796, or a share below 1, not 1797"):
        datasets.digits(test=1797)


def save(folder, array=None, name="own", **named):
    if named:
        np.savez(folder / f"{name}.npz", **named)
        return str(folder / f"{name}.npz")
    np.save(folder / f"{name}.npy", array)
    return str(folder / f"{name}.npy")


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ((20, 4, 5), (1, 4, 5)),
        ((20, 3, 4, 5), (3, 4, 5)),
        ((20, 1, 4, 5), (1, 4, 5)),
        ((20, 4, 5, 3), (3, 4, 5)),
        ((20, 4, 5, 1), (1, 4, 5)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float16, ">f4"])
def test_arrays_of_every_layout(tmp_path, given, shape, dtype):
    values = np.random.default_rng(0).random(given)
    array = (values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(dtype)
    dataset = datasets.arrays(save(tmp_path, array))
    assert (dataset.name, dataset.shape, dataset.classes) == ("own", shape, 0)
    parts = [dataset.split(which) for which in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert sorted(i for part in parts for i in part.index.tolist()) == list(range(20))
    source = parts[0]
    expected = array.astype(np.float32) / (255 if dtype == np.uint8 else 1)
    if shape[0] != given[1] and len(given) == 4:
        expected = expected.transpose(0, 3, 1, 2)
    assert source.images.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert np.allclose(source.pixels().numpy(), expected.reshape(20, *shape)[source.index.numpy()], atol=1e-6)
    assert (source.labels == -1).all()


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("first", "y")])
def test_arrays_with_labels(tmp_path, names):
    images, labels = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 3
    dataset = datasets.arrays(save(tmp_path, **{names[1]: labels, names[0]: images}), exclude=[2])
    assert dataset.classes == 3
    train = dataset.split("train")
    assert set(train.labels.tolist()) == {0, 1}
    assert torch.equal(train.labels, train.index % 3)


def test_a_test_file_of_one_s_own(tmp_path):
    path = save(tmp_path, np.zeros((20, 4, 4), np.uint8))
    dataset = datasets.arrays(path, save(tmp_path, np.ones((7, 4, 4), np.float32), "other"), valid=4)
    assert [len(dataset.split(which)) for which in ("train", "valid", "test")] == [16, 4, 7]
    assert dataset.split("test").pixels().min() == 1
    with pytest.raises(ValueError, match="test_path must be a file"):
        datasets.arrays(path, str(tmp_path / "nowhere.npy"))
    with pytest.raises(ValueError, match=r"images in .*small.npy are \(1, 2, 2\) of 0 classes"):
        datasets.arrays(path, save(tmp_path, np.zeros((7, 2, 2), np.uint8), "small")).split("test")


def test_classes_that_the_training_file_lacks_are_refused(tmp_path):
    images = np.zeros((4, 2, 2), np.uint8)
    path = save(tmp_path, x=images, y=np.array([0, 1, 0, 1]))
    other = save(tmp_path, name="other", x=images, y=np.array([0, 1, 2, 1]))
    with pytest.raises(ValueError, match=r"of 3 classes, but those in .* of 2 classes"):
        datasets.arrays(path, other).split("test")


def test_excluding_all_there_is_leaves_nothing_to_train_on(tmp_path):
    path = save(tmp_path, x=np.zeros((4, 2, 2), np.uint8), y=np.array([0, 2, 0, 2]))
    with pytest.raises(ValueError, match="exclude must leave images"):
        datasets.arrays(path, exclude=[0, 2]).split("train")


IMAGES = np.zeros((6, 2, 2))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((6, 4)), "must be .N, H, W."),
        (np.zeros(6), "must be .N, H, W."),
        (np.zeros((6, 1, 2, 2, 2)), "must be .N, H, W."),
        (np.zeros((6, 28, 28, 4)), "must be .N, H, W."),
        (np.zeros((0, 2, 2)), "must be .N, H, W."),
        (IMAGES - 0.5, r"must lie in \[0, 1\], but go from -0.5 to -0.5"),
        (IMAGES + 255.0, r"must lie in \[0, 1\]"),
        (IMAGES * np.nan, r"must lie in \[0, 1\], but go from nan"),
        (IMAGES + 1e300, r"must lie in \[0, 1\]"),
        (IMAGES.astype(int), "must be uint8, or floats in .0, 1., not int64"),
        (IMAGES.astype(bool), "not bool"),
        (IMAGES.astype(complex), "not complex128"),
        (IMAGES.astype(str), "not <U"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        datasets.arrays(save(tmp_path, array))


@pytest.mark.parametrize(
    "labels",
    [np.zeros(5, int), np.zeros((6, 2), int), np.zeros(6), np.full(6, -2), np.array(list("abcdef")), np.array(3)],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    with pytest.raises(ValueError, match=r"labels in .* must be integers"):
        datasets.arrays(save(tmp_path, x=IMAGES, y=labels))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.npy does not exist"):
        datasets.arrays(str(tmp_path / "nowhere.npy"))
    with pytest.raises(ValueError, match="does not exist or is not a file"):
        datasets.arrays(str(tmp_path))
    objects = np.array([{"a": 1}], dtype=object)
    whole = (tmp_path / "whole.npz", tmp_path / "whole.npy")
    np.savez(whole[0], x=IMAGES)
    np.save(whole[1], IMAGES)
    damaged = {"text.npy": b"not an array", "empty.npz": b"", "page.npz": b"<html></html>"}
    damaged |= {f"cut{path.suffix}": path.read_bytes()[:-40] for path in whole}
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    paths = [save(tmp_path, objects, "pickle"), save(tmp_path, x=objects), *(str(tmp_path / name) for name in damaged)]
    for path in paths:
        with pytest.raises(downloads.DataError, match=r"not a .npy or .npz file of numbers"):
            datasets.arrays(path)
    with pytest.raises(downloads.DataError, match=r"must be .N, H, W."):
        datasets.arrays(save(tmp_path, y=np.zeros(3, int)))


def pixels(n=20):
    return np.arange(n * 16, dtype=np.uint8).reshape(n, 4, 4)


def classes(n=20):
    return np.arange(n) % 3


@pytest.mark.parametrize(
    ("named", "splits"),
    [
        # Images to train on (with those held out of them), to validate and to test: how many, and with labels or not.
        ({"x_test": pixels(7), "x_train": pixels(), "y_train": classes(), "y_test": classes(7)}, (18, 2, 7, True)),
        ({"x": pixels(), "y": classes()}, (16, 2, 2, True)),
        ({"X": pixels(), "Y": classes()}, (16, 2, 2, True)),
        ({"data": pixels(), "target": classes()}, (16, 2, 2, True)),
        ({"arr_1": classes(), "arr_0": pixels()}, (16, 2, 2, True)),
        ({"trainX": pixels(), "trainY": classes(), "testX": pixels(4)}, (18, 2, 4, True)),
        ({"xtrain": pixels(), "xval": pixels(3)}, (18, 3, 2, False)),
        ({"x": pixels(), "y": classes(), "x_test": pixels(4), "y_test": classes(4)}, (18, 2, 4, True)),
        ({"train": pixels(), "test": pixels(3)}, (18, 2, 3, False)),
        # As in MedMNIST's files (Yang et al. 2023): labels are [N, 1].
        (
            {f"{part}_{what}": pixels(n) if what == "images" else classes(n)[:, None]
             for part, n in (("train", 20), ("val", 5), ("test", 6)) for what in ("images", "labels")},
            (20, 5, 6, True),
        ),
        # What is neither is ignored: the positions of a split, names of classes, an array with another name.
        ({"x": pixels(), "y": classes(), "train": np.arange(5)}, (16, 2, 2, True)),
        ({"label_names": np.array(["a", "b", "c"]), "photos": pixels(), "y": classes()}, (16, 2, 2, True)),
    ],
)  # fmt: skip
def test_arrays_are_found_by_their_usual_names(tmp_path, named, splits):
    dataset = datasets.arrays(save(tmp_path, **named))
    parts = [dataset.split(which) for which in ("train", "valid", "test")]
    train, valid, test, is_labelled = splits
    assert [len(part) for part in parts] == [train, valid, test]
    assert bool((parts[0].labels >= 0).all()) is is_labelled
    if is_labelled:
        assert torch.equal(parts[0].labels, parts[0].index % 3)
    # Each image is the one at its position in its own array.
    for part in parts:
        assert torch.equal(part.images[:, 0, 0, 0], (part.index * 16 % 256).byte())


@pytest.mark.parametrize(
    ("named", "keys", "message"),
    [
        ({"x": pixels(), "images": pixels()}, None, r"'x' or 'images'\? .*dataset.keys="),
        ({"x": pixels(), "x_train": pixels()}, None, r"'x' or 'x_train'\? .*dataset.keys=.train_images"),
        ({"a": pixels(), "b": pixels()}, None, r"has 'a', 'b': .*'dataset.keys={images: a}'"),
        ({"x": pixels(), "y": classes(), "labels": classes()}, None, r"'y' or 'labels'\?"),
        ({"x_test": pixels(), "y_test": classes()}, None, r"no training images.*dataset.keys="),
        ({"x_train": pixels(), "x_test": pixels(5)[:, :2]}, None, r"one shape and type, not train \(1, 4, 4\)"),
        ({"x_train": pixels(), "y_val": classes(), "x_test": pixels(5)}, None, r"labels 'y_val' but no images"),
        ({"a": pixels()}, {"image": "a"}, r"dataset.keys: no 'image', choose from images"),
        ({"a": pixels()}, "a", r"dataset.keys must map roles .* not 'a'"),
        ({"a": pixels()}, {"images": "b"}, r"dataset.keys.images: no array 'b'.* has 'a'"),
    ],
)
def test_ambiguous_arrays_are_refused(tmp_path, named, keys, message):
    with pytest.raises(downloads.DataError, match=message):
        datasets.arrays(save(tmp_path, **named), keys=keys)


def test_keys_say_which_array_is_what(tmp_path, caplog):
    path = save(tmp_path, a=255 - pixels(), b=pixels(), y=classes(), c=pixels(4))
    dataset = datasets.arrays(path, keys={"images": "b", "test_images": "c"})
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train), len(test), dataset.classes) == (18, 4, 3)
    assert torch.equal(train.images[:, 0, 0, 0], (train.index * 16 % 256).byte())
    with caplog.at_level("INFO", logger="aectl"):
        assert datasets.arrays(path, keys={"images": "b"}).classes == 3
    assert "own.npz: reading 'b', 'y', ignoring 'a', 'c'" in caplog.text


def test_unread_labels_are_answered_with_how_to_name_them(tmp_path, caplog):
    path = save(tmp_path, bilder=pixels(), etiketten=classes(), extra=pixels()[:, 0, 0].astype(float))
    with caplog.at_level("INFO", logger="aectl"):
        assert datasets.arrays(path).classes == 0
        assert datasets.arrays(path, keys={"images": "bilder", "labels": "etiketten"}).classes == 3
    first, second = caplog.messages
    assert first.endswith("'etiketten' holds the labels, set 'dataset.keys={images: bilder, labels: etiketten}'")
    assert second == "own.npz: reading 'bilder', 'etiketten', ignoring 'extra'"


@pytest.mark.parametrize(
    ("array", "scale", "notice", "highest"),
    [
        (np.full((6, 2, 2), 1, np.uint8), None, "brightest pixel is 1 of 255.*set dataset.scale=1 ", 1 / 255),
        (np.full((6, 2, 2), 1, np.uint8), 1, None, 1),
        (np.full((6, 2, 2), 0.003), None, "brightest pixel is 0.003 of 1", 0.003),
        (np.full((6, 2, 2), 4000, np.int32), 4095, None, 4000 / 4095),
        (np.full((6, 2, 2), 100, np.uint16), 4095, "brightest pixel is 100 of 4095.*dataset.scale=255", 100 / 4095),
        (np.full((6, 2, 2), 128.0), 255, None, 128 / 255),
        (np.full((6, 2, 2), 200, np.uint8), None, None, 200 / 255),
    ],
)
def test_pixels_far_below_white_are_noticed_and_scale_decides(tmp_path, caplog, array, scale, notice, highest):
    source = datasets.arrays(save(tmp_path, array), scale=scale).split("train")
    assert source.pixels().max() == pytest.approx(highest)
    assert bool(notice) == bool(caplog.text) and (not notice or re.search(notice, caplog.text))


@pytest.mark.parametrize(
    ("array", "scale", "message"),
    [
        (np.full((6, 2, 2), 3000, np.int32), None, "not int32: set dataset.scale=4095"),
        (np.full((6, 2, 2), 1.0000001), None, "go from 1.0000001 to 1.0000001"),
        (np.full((6, 2, 2), 200, np.uint8), 100, r"must lie in \[0, 100\], but go from 200 to 200"),
        (np.full((6, 2, 2), -5, np.int32), 255, r"must lie in \[0, 255\], but go from -5"),
        (np.zeros((6, 2, 2), np.uint8), 0, "scale must be the value of a white pixel"),
        (np.zeros((6, 2, 2), np.uint8), math.inf, "scale must be"),
    ],
)
def test_pixels_beyond_white_are_refused(tmp_path, array, scale, message):
    with pytest.raises(ValueError, match=message):
        datasets.arrays(save(tmp_path, array), scale=scale)


def test_two_channels_have_no_picture_and_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 2, 4, 5), dtype=np.uint8))
    with pytest.raises(ValueError, match="with C 1 or 3"):
        datasets.arrays(str(tmp_path / "x.npy"))


def test_few_labels_are_evenly_spread_always_the_same_and_only_in_training():
    few = datasets.digits(labels=25)
    train = few.split("train")
    kept = train.labels[train.labels >= 0]
    assert len(kept) == 25
    assert set(kept.bincount().tolist()) == {2, 3}
    assert torch.equal(train.labels, datasets.digits(labels=25).split("train").labels)
    assert torch.equal(train.images, datasets.digits().split("train").images)
    assert torch.equal(train.labelled().labels, kept)
    for part in ("valid", "test"):
        assert (few.split(part).labels >= 0).all()
    assert not len(datasets.digits(labels=0).split("train").labelled())


@pytest.mark.parametrize("labels", [-1, 1.5, True, 5000])
def test_labels_must_be_a_count_of_training_images(labels):
    with pytest.raises(ValueError, match="labels must be"):
        datasets.digits(labels=labels).split("train")
