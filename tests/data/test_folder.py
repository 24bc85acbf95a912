"""One's own image files in folders: classes, pixels, the file of bytes, and what is wrong with them."""

import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from aectl.data import resize_cache
from aectl.data.downloads import DataError
from aectl.data.folder import folder
from aectl.data.image_files import read_image


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
    with pytest.raises(DataError, match=r"has a class .* 'bird' that .* lacks"):
        folder(str(root), str(other), size=8)


def test_images_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    root, read = photos(tmp_path / "photos"), []
    picture = resize_cache.read_image
    monkeypatch.setattr(resize_cache, "read_image", lambda file, *more: read.append(file) or picture(file, *more))
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
    with pytest.raises(DataError, match="is not a folder"):
        folder(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image file"):
        folder(str(tmp_path / "empty"))
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image at all")
    with pytest.raises(DataError, match=r"0.png cannot be read as an image"):
        folder(str(root), size=8)
    assert not [path for path in (tmp_path / "cache/folders").iterdir() if path.suffix == ".npy"]


def test_what_is_not_a_class_or_an_image_is_skipped_and_counted_in_one_line(tmp_path, caplog):
    root = photos(tmp_path / "photos")
    for stray in ("__MACOSX/cat/._0.png", "cat/.ipynb_checkpoints/0.png", ".git/0.png", "cat/phone.heic", "notes.txt"):
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        (root / stray).write_bytes((root / "cat/0.png").read_bytes())
    (root / "loose.png").write_bytes((root / "cat/0.png").read_bytes())
    (root / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (8, 8), 200).save(tmp_path / "elsewhere/9.png")
    (root / "dog/more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "dog/again").symlink_to(root / "dog", target_is_directory=True)
    dataset = folder(str(root), size=8)
    x, y = everything(dataset)
    assert dataset.classes == 2 and y.tolist() == [0] * 5 + [1] * 6
    assert x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 40, 41, 42, 43, 44, 200]
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for part in (
        "1 .heic file", "1 .txt file", "1 empty folder", "2 hidden folders", "1 system folder",
        "1 loose image next to the classes",
    ):  # fmt: skip
        assert part in line


def test_files_that_cannot_be_read_are_skipped_and_named_each_time(tmp_path, caplog):
    root = photos(tmp_path / "photos")
    (root / "cat/1.png").write_bytes(b"no image at all")
    for _ in range(2):
        caplog.clear()
        x, y = everything(folder(str(root), size=8, test=2, valid=1))
        assert x[:, 0, 0, 0].tolist() == [0, 2, 3, 4, 40, 41, 42, 43, 44] and y.tolist() == [0] * 4 + [1] * 5
        assert "photos: skipped unreadable cat/1.png" in caplog.text


def test_a_test_folder_may_lack_a_class_and_keeps_the_numbers(tmp_path):
    root = photos(tmp_path / "train", classes=("ape", "cat", "dog"))
    test = folder(str(root), str(photos(tmp_path / "test", classes=("dog",))), size=8).split("test")
    assert test.labels.tolist() == [2] * 5 and test.classes == 3


def grey(array):
    return Image.fromarray(array)


@pytest.mark.parametrize(
    ("image", "scale", "level", "notice"),
    [
        # 8 bits in a 32-bit file, 12 bits in a 16-bit one, and masks of 0 and 1.
        (grey(np.full((8, 8), 255, np.int32)), None, 1, "brightest pixel is 255 of 65535.*dataset.scale=255"),
        (grey(np.full((8, 8), 255, np.int32)), 255, 255, None),
        (grey(np.full((8, 8), 4095, np.uint16)), None, 16, "brightest pixel is 4095 of 65535.*dataset.scale=4095"),
        (grey(np.full((8, 8), 4095, np.uint16)), 4095, 255, None),
        (grey(np.full((8, 8), 1, np.uint8)), None, 1, "brightest pixel is 1 of 255.*dataset.scale=1 "),
        (grey(np.full((8, 8), 1, np.uint8)), 1, 255, None),
        (grey(np.full((8, 8), 65535, np.uint16)), None, 255, None),
        (grey(np.full((8, 8), 0.5, np.float32)), None, 128, None),
    ],
)
def test_scale_is_the_value_of_white_and_a_dark_set_is_noticed(tmp_path, caplog, image, scale, level, notice):
    # After a test of a command the logger has the level of messages to the user.
    caplog.set_level("WARNING", "aectl")
    for number in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        image.save(tmp_path / "photos" / f"{number}.tiff")
    for _ in range(2):
        caplog.clear()
        x, _ = everything(folder(str(tmp_path / "photos"), size=8, scale=scale))
        assert x.unique().tolist() == [level]
        assert bool(notice) == bool(caplog.text) and (not notice or re.search(notice, caplog.text))


def test_pixels_beyond_the_scale_are_refused(tmp_path):
    photos(tmp_path / "photos")
    with pytest.raises(DataError, match=r"its values go up to \d+, more than dataset.scale=3"):
        folder(str(tmp_path / "photos"), size=8, scale=3)
    with pytest.raises(ValueError, match="scale must be the value of a white pixel"):
        folder(str(tmp_path / "photos"), size=8, scale=0)


def test_pages_after_the_first_are_counted(tmp_path, caplog):
    root = photos(tmp_path / "photos", classes=(".",))
    pages = [Image.new("L", (8, 8), level) for level in (7, 90)]
    pages[0].save(root / "a.tiff", save_all=True, append_images=pages[1:])
    assert everything(folder(str(root), size=8))[0][5].unique().tolist() == [7]
    assert "photos: using only the first page or frame of a.tiff" in caplog.text


def test_transparent_pixels_of_16_bits_are_white(tmp_path):
    # Pillow writes no 16-bit grey with a transparent level: the chunk is put in by hand.
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(levels).save(tmp_path / "a.png")
    data, content = (tmp_path / "a.png").read_bytes(), struct.pack(">H", 5000)
    chunk = struct.pack(">I", 2) + b"tRNS" + content + struct.pack(">I", zlib.crc32(b"tRNS" + content))
    at = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + chunk + data[at:])
    found = read_image(tmp_path / "a.png", (1, 8, 8)) * 65535
    assert torch.allclose(found[0].flatten(), torch.tensor([*range(5), 65.535, *range(6, 64)]) * 1000, atol=0.1)
