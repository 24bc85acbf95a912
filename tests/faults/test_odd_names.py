"""Folders and files of any name: of the working folder, of runs, of sweeps, of images."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aectl.commands.eval_user_images import read_images
from aectl.tensorboard.evaluation import utf8_path
from tests.small import DENSE, QUICK

WORDS = (*QUICK, *DENSE, "model.code=2")


@pytest.mark.parametrize("name", ["dol${x}lar", "o'brien, a=\\${b} [c]\n#", "b\udcffad"])
def test_a_run_is_trained_and_resumed_in_a_folder_of_any_name(aectl, tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    code, out, err = aectl("train", *WORDS, "hydra.job.chdir=true")
    assert (code, err) == (0, ""), out
    assert "next aectl eval run=outputs/digits" in out
    code, out, err = aectl("train", "resume=latest", "epochs=2")
    assert (code, err) == (0, ""), out
    assert len([*Path().glob("outputs/digits/*/*/run.json")]) == 1
    # By its path from elsewhere, too.
    (run,) = (tmp_path / name).glob("outputs/digits/*/*")
    monkeypatch.chdir(tmp_path)
    code, _, err = aectl("train", f"resume={run}")
    assert code == 2
    assert "has trained its 2 epochs" in err


@pytest.mark.parametrize("name", ["o'brien ${x}"])
def test_a_sweep_is_resumed_in_a_folder_of_any_name(aectl, tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    code, _, err = aectl("train", "-m", *WORDS, "seed=0", "jobs=1")
    assert (code, err) == (0, "")
    code, out, err = aectl("train", "-m", "resume=latest")
    assert (code, err) == (0, "")
    assert "1 of them done already" in out


def test_images_whose_names_are_not_utf_8_are_read_with_the_others(aectl, kept, tmp_path):
    folder = tmp_path / "pictures ${x}"
    folder.mkdir()
    for name in ("a.png", "b\udcff.png", "c\nd.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / name)
    images, names = read_images(str(folder), (1, 8, 8))
    assert (len(images), names) == (3, ["a.png", "b\\udcff.png", "c\\nd.png"])
    run = kept()
    code, _, err = aectl("eval", f"run={run}", f"images={folder}")
    assert (code, err) == (0, "")
    with (run / "images/errors.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names


def test_tensorboard_is_given_a_path_in_utf_8(tmp_path, monkeypatch):
    (tmp_path / "b\udcff").mkdir()
    assert utf8_path(tmp_path) == str(tmp_path)
    with pytest.raises(OSError, match="folder names in UTF-8"):
        utf8_path(tmp_path / "b\udcff")
    monkeypatch.chdir(tmp_path / "b\udcff")
    assert utf8_path(tmp_path / "b\udcff" / "run") == "run"


def test_commands_to_type_next_are_quoted(aectl, tmp_path):
    code, out, _ = aectl("train", *WORDS, "hydra.run.dir=my runs/a b")
    assert code == 0
    assert "next aectl eval run='my runs/a b'" in out
    assert "tensorboard --logdir 'my runs'" in out
    code, _, err = aectl("train", *WORDS, "hydra.run.dir=my runs/a b")
    assert code == 2
    assert f"aectl train resume='{tmp_path}/my runs/a b' resumes it" in err
