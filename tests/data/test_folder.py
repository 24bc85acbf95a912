"""One's own image files in folders: classes, pixels, the file of bytes, and what is wrong with them."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from aectl.data import resized
from aectl.data.folder import folder
from aectl.data.sources import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "cache"))


def photos(root, classes=("cat", "dog"), count=5, size=(8, 8), mode="RGB"):
    for number, name in enumerate(classes):
        for index in range(count):
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, size, tuple([40 * number + index] * 3) if mode == "RGB" else 40 * number + index).save(path)
    return root


def everything(dataset):
    parts = [dataset.split(which) for which in ("train", "valid", "test")]
    x = torch.cat([part.images.all(torch.uint8) for part in parts])
    y, index = (torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "index"))
    return x[index.argsort()], y[index.argsort()]


def test_sub_folders_are_classes_and_every_image_is_in_one_split(tmp_path):
    dataset = folder(str(photos(tmp_path / "photos")), size=8, valid=2, test=3)
    assert (dataset.name, dataset.shape, dataset.classes) == ("photos", (1, 8, 8), 2)
    assert [len(dataset.split(which)) for which in ("train", "valid", "test")] == [5, 2, 3]
    x, y = everything(dataset)
    assert y.tolist() == [0] * 5 + [1] * 5
    assert x.dtype == torch.uint8 and x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 40, 41, 42, 43, 44]


def test_colours_are_kept_and_sizes_made_one(tmp_path):
    root = photos(tmp_path / "photos", count=4, size=(20, 10))
    Image.fromarray(np.uint8(np.arange(300).reshape(10, 10, 3) % 256)).save(root / "cat" / "0.png")
    dataset = folder(str(root), size=5, channels=3)
    x, _ = everything(dataset)
    assert x.shape == (8, 3, 5, 5)
    assert not torch.equal(x[0, 0], x[0, 1])
    assert x[1].unique().tolist() == [1]


def test_a_folder_without_sub_folders_has_no_classes(tmp_path):
    root = photos(tmp_path / "photos", classes=(".",))
    (root / "notes.txt").write_text("no image")
    dataset = folder(str(root), size=8)
    assert dataset.classes == 0 and everything(dataset)[1].tolist() == [-1] * 5


def test_the_test_images_may_have_a_folder_of_their_own(tmp_path):
    root, other = photos(tmp_path / "train"), photos(tmp_path / "test", count=2)
    dataset = folder(str(root), str(other), size=8)
    assert len(dataset.split("test")) == 4 and len(dataset.split("train")) + len(dataset.split("valid")) == 10
    photos(other, classes=("bird",))
    with pytest.raises(DataError, match="has other classes"):
        folder(str(root), str(other), size=8)


def test_images_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    root, read = photos(tmp_path / "photos"), []
    picture = resized.picture
    monkeypatch.setattr(resized, "picture", lambda file, shape: read.append(file) or picture(file, shape))
    before, _ = everything(folder(str(root), size=8))
    # Nobody who has the images can change the file.
    with pytest.raises(ValueError, match="read-only"):
        folder(str(root), size=8).read("train").images.file[:] = 0
    again, _ = everything(folder(str(root), size=8))
    assert torch.equal(before, again) and len(read) == 10
    Image.new("L", (8, 8), 200).save(root / "dog" / "4.png")
    os.utime(root / "dog" / "4.png", (1, 1))
    assert everything(folder(str(root), size=8))[0][9].unique().tolist() == [200]
    assert len(list((tmp_path / "cache/folders").glob("*.npy"))) == 2


def test_what_is_wrong_is_told_and_leaves_no_half_file(tmp_path):
    root = photos(tmp_path / "photos")
    for arguments, message in (
        ({"size": 0}, "size must be at least 1"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"valid": 99}, "valid must be a count"),
    ):
        with pytest.raises(ValueError, match=message):
            folder(str(root), **arguments)
    with pytest.raises(DataError, match="is no folder"):
        folder(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image file"):
        folder(str(tmp_path / "empty"))
    (root / "dog" / "2.png").write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"2.png cannot be read as an image"):
        folder(str(root), size=8).split("train")
    assert not [path for path in (tmp_path / "cache/folders").iterdir() if path.suffix == ".npy"]
