"""The folder from the internet that one works in, and what its files hide from the first look at them."""

import io
import os
import sqlite3
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import aectl as package
from aectl.commands.eval_provenance import weights_digest
from aectl.config import ConfigError
from aectl.config.instantiate import uses_own_modules
from aectl.config.stored_overrides import check_words
from aectl.runs.run import Run
from aectl.sampling import logged_images
from aectl.sweep.optuna_search import STUDY, open_study
from aectl.sweep.plan import check_working_folder
from aectl.tensorboard import evaluation as evaluations
from aectl.training import checkpoint
from aectl.training.checkpoint import CheckpointError
from aectl.training.metrics_csv import read_metrics_csv
from tests.faults.test_strangers import repacked
from tests.faults.test_strangers_sweeps import stored

TINY = ("dataset=digits", "model=linear", "model.code=2", "epochs=1", "batch_size=360", "device=cpu")


def plant(folder, canary, *names):
    """Put modules into a folder that leave a canary when they are imported."""
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write(__name__ + ' ')\n")


def test_the_processes_of_a_strangers_run_import_nothing_from_its_folder(kept, aectl, tmp_path, monkeypatch, tally):
    run, canary = kept("halfway"), tmp_path / "canary"
    path = run / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("count: null", "count: 2"))
    plant(run, canary, "sitecustomize", "usercustomize", "aectl", "torch", "opt_einsum", "runpy")
    monkeypatch.chdir(run)
    code, _, said = aectl("train", "resume=.")
    assert code == 0, said
    assert not canary.exists(), canary.read_text()
    tally("attacks refused", 6)


def test_the_jobs_of_a_strangers_sweep_import_nothing_from_its_folder(aectl, tmp_path, monkeypatch, tally):
    sweep, canary = tmp_path / "sweep", tmp_path / "canary"
    stored(sweep, [*TINY, "seed=0"])
    plant(sweep, canary, "multiprocessing", "random", "opt_einsum", "pandas", "google")
    monkeypatch.chdir(sweep)
    code, _, said = aectl("train", "-m", "resume=.")
    assert code == 0, said
    assert [Run(path).record["status"] for path in sweep.glob("0-*")] == ["done"]
    assert not canary.exists(), canary.read_text()
    tally("attacks refused", 5)


OWN = {"model": {"_target_": "my_module.Mine"}}


@pytest.mark.parametrize(
    ("config", "is_typed", "expected"),
    [
        (OWN, True, True),
        (OWN, False, False),
        ({**OWN, "trust": ["my_module"]}, False, True),
        ({**OWN, "trust": "/data/own.npy"}, False, False),
        ({"run": "x", "trust": ["~/own"]}, False, False),
        ({"run": "x", "trust": None}, False, False),
        ({"trust": [], "model": {"_target_": "aectl.models.vae.VAE"}}, True, False),
    ],
)
def test_modules_of_the_working_folder_come_for_whoever_names_them_alone(config, is_typed, expected):
    assert uses_own_modules(OmegaConf.create(config), is_typed) == expected


@pytest.mark.parametrize(
    "word",
    [
        "storage=sqlite:////tmp/elsewhere.db",
        "storage=sqlite:///../elsewhere.db",
        "storage=mysql://evil/x",
        "storage=null,'sqlite:////tmp/elsewhere.db'",
    ],
)
def test_a_sweep_that_one_stands_in_uses_no_other_place(tmp_path, monkeypatch, word, tally):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="may not ask for that"):
        check_words(["-m", "sweep=optuna", word], tmp_path)
    tally("attacks refused")


def test_a_command_that_is_proposed_is_quoted(tmp_path, tally):
    stored(tmp_path / "sweep", ["seed=0,1"], cwd="/; touch canary")
    with pytest.raises(ConfigError) as caught:
        check_working_folder(tmp_path / "sweep", ["dataset.path=x.npy"])
    assert str(caught.value).endswith("cd '/; touch canary'")
    tally("texts made harmless")


TAGGED = {
    "a path": "!!python/object/apply:pathlib.PosixPath [{}]",
    "a pure path": "!!python/object/apply:pathlib.Path [{}]",
    "bytes": "!!binary {}",
    "a text": "!!str {}",
}


@pytest.mark.parametrize("what", TAGGED)
def test_a_path_of_own_data_is_a_text_or_nothing(kept, tmp_path, what, tally):
    run, private = kept(), tmp_path / "private.npy"
    np.save(private, np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    path = run / ".hydra" / "config.yaml"
    before, _, rest = path.read_text().partition("dataset:\n")
    node = f"dataset:\n  _target_: aectl.data.datasets.arrays\n  path: {TAGGED[what].format(private)}\n"
    path.write_text(before + node + rest[rest.index("noise:") :])
    with pytest.raises(ValueError, match="which no config of aectl has"):
        package.dataset(run, changed=True)
    tally("attacks refused")


def test_images_in_a_strangers_folder_are_no_links_to_others(kept, tmp_path, tally):
    run, photos = kept(), tmp_path / "photos"
    photos.mkdir()
    for number in range(20):
        Image.new("L", (8, 8), number).save(photos / f"{number}.png")
    for name, target in (("one", photos), ("two/0.png", photos / "0.png")):
        root = run / "data"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
        path = run / ".hydra" / "config.yaml"
        config = OmegaConf.load(path)
        config.dataset = {"_target_": "aectl.data.folder.folder", "root": str(root), "size": 8}
        OmegaConf.save(config, path)
        with pytest.raises(ValueError, match="is a link to"):
            package.dataset(run, changed=True)
        (root / name).unlink()
        tally("links refused")


BOMB = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x03\x85R."
"""bytearray(2**26 - 1), pickled."""


def zip64_twice(benign, evil):
    """Return a file in which Python finds one archive and torch another.

    Python looks for the list of members before the end's locator, torch where that says.
    """
    content, places = b"", []
    for archive in (evil, benign):
        end = archive.rindex(b"PK\x05\x06")
        count, size, start = struct.unpack("<HII", archive[end + 10 : end + 20])
        content += archive[:end]
        places.append(len(content))
        content += struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, start)
    content += struct.pack("<IIQI", 0x07064B50, 0, places[0], 1)
    return content + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)


def with_bomb(name):
    """Return a change of a checkpoint's archive that puts a bomb in place of its pickle, under another name."""

    def change(path):
        stream = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w") as new:
            for member in old.namelist():
                if member.endswith("data.pkl"):
                    new.writestr(member.replace("data.pkl", name), BOMB)
                else:
                    new.writestr(member, old.read(member))
        path.write_bytes(stream.getvalue())

    return change


def with_two_lists(path):
    repacked(path)
    benign = path.read_bytes()
    with_bomb("data.pkl")(path)
    path.write_bytes(zip64_twice(benign, path.read_bytes()))


HIDDEN = {
    "in capitals": with_bomb("DATA.PKL"),
    "in mixed case": with_bomb("Data.pkl"),
    "in another list": with_two_lists,
}


@pytest.mark.parametrize("where", HIDDEN)
def test_torch_reads_nothing_of_a_checkpoint_but_what_was_checked(kept, monkeypatch, where, tally):
    path = kept() / "checkpoints" / "best.pt"
    HIDDEN[where](path)
    read = []
    original = torch.load
    monkeypatch.setattr("torch.load", lambda *args, **rest: read.append(found := original(*args, **rest)) or found)
    try:
        checkpoint.load(path)
    except CheckpointError as error:
        assert "damaged or not a checkpoint" in str(error)
    assert not any(isinstance(found, bytearray) for found in read)
    tally("attacks refused")


def test_a_checkpoint_with_two_members_of_one_name_is_refused(kept, tally):
    path = kept() / "checkpoints" / "best.pt"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(archive.namelist()[0].upper(), BOMB)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)
    tally("attacks refused")


def test_lists_that_hold_each_other_are_not_printed(kept, tally):
    path = kept() / "checkpoints" / "best.pt"
    found = ["a"] * 10
    for _ in range(30):
        found = [found] * 10
    torch.save({**torch.load(path, weights_only=True), "format": found}, path)
    with pytest.raises(CheckpointError, match="its format is a list"):
        checkpoint.load(path)
    tally("attacks refused")


COMPUTED = {
    "a view": (
        "ALTER TABLE trial_user_attributes RENAME TO other",
        "CREATE VIEW trial_user_attributes AS SELECT trial_user_attribute_id, trial_id, key, "
        "'\"' || hex(zeroblob(200000000)) || '\"' AS value_json FROM other",
    ),
    "a generated column": (
        "DROP TABLE trial_user_attributes",
        "CREATE TABLE trial_user_attributes (trial_user_attribute_id INTEGER PRIMARY KEY, trial_id INTEGER, "
        "key TEXT, value_json TEXT as (hex(zeroblob(200000000))))",
    ),
    "a trigger": ("CREATE TRIGGER x AFTER INSERT ON trials BEGIN SELECT hex(zeroblob(200000000)); END",),
    "a default": ("CREATE TABLE x (a TEXT DEFAULT (hex(zeroblob(200000000))))",),
    "a check": ("CREATE TABLE x (a TEXT, CHECK (length(hex(zeroblob(200000000))) > 1))",),
    "an index": ("CREATE INDEX x ON trials (hex(zeroblob(200000000 + 0 * number)))",),
    "a part of an index": ("CREATE INDEX x ON trials (number) WHERE length(hex(zeroblob(number))) > 1",),
}


@pytest.mark.parametrize("what", COMPUTED)
def test_a_study_stores_and_computes_nothing(tmp_path, what, tally):
    open_study(tmp_path, None, "aectl", 0, None).ask().set_user_attr("x", 1)
    open_study(tmp_path, None, "aectl", 0, None)
    with sqlite3.connect(tmp_path / STUDY) as database:
        for statement in COMPUTED[what]:
            database.execute(statement)
    database.close()
    with pytest.raises(ConfigError, match="is not a plain table"):
        open_study(tmp_path, None, "aectl", 0, None)
    tally("attacks refused")


def test_a_file_that_is_no_study_is_told_in_a_line(tmp_path):
    (tmp_path / STUDY).write_bytes(b"SQLite format 3\0" + bytes(1000))
    with pytest.raises(ConfigError, match="storage: "):
        open_study(tmp_path, None, "aectl", 0, None)


def test_files_of_holes_are_neither_read_nor_summed(kept, tally):
    run = kept()
    for path in (run / "metrics.csv", run / "checkpoints" / "best.pt"):
        os.truncate(path, 5 * 2**30)
    with pytest.raises(ConfigError, match=r"metrics\.csv cannot be read: it has more than"):
        read_metrics_csv(run / "metrics.csv")
    assert weights_digest(Run(run), "best") == ""
    with pytest.raises(CheckpointError, match="it has 5,368,709,120 bytes, but only"):
        checkpoint.load(run / "checkpoints" / "best.pt")
    tally("attacks refused", 3)


TABLES = {
    "a field without end": "epoch,loss\n1," + "1" * 200_000 + "\n",
    "a thousand columns": "epoch," + ",".join(f"c{number}" for number in range(1000)) + "\n",
    "two columns of one name": "epoch,loss,loss\n1,2,3\n",
}


@pytest.mark.parametrize("what", TABLES)
def test_a_table_of_metrics_that_is_none_is_told_in_a_line(tmp_path, what, tally):
    path = tmp_path / "metrics.csv"
    path.write_text(TABLES[what])
    with pytest.raises(ConfigError, match=r"metrics\.csv (cannot be read|is damaged)") as caught:
        read_metrics_csv(path)
    assert len(str(caught.value).splitlines()) == 1
    tally("damaged numbers reported")


def test_rows_of_metrics_that_are_damaged_are_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        f"epoch,stage,loss\n1,fit,0.5\nx,fit,1\n{'9' * 5000},fit,1\n2,fit,abc\n3,fit\n4,fit,\n5,fit,nan\n6,f"
    )
    assert [row["epoch"] for row in read_metrics_csv(path)[1]] == ["1", "4", "5"]


def png(width, height):
    """Return a black PNG of two colours, which is small however large the picture."""
    row = b"\0" + bytes((width + 7) // 8)
    found = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(row * height, 9)), (b"IEND", b"")):
        found += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return found


def test_the_pictures_of_a_training_take_a_bounded_memory_together(tmp_path, tally):
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for epoch in range(1, 241):
            encoded = Summary.Image(height=4000, width=4000, colorspace=1, encoded_image_string=png(4000, 4000))
            summary = Summary(value=[Summary.Value(tag="samples", image=encoded)])
            writer.file_writer.add_summary(summary, epoch)
    found = logged_images.read_sheets(tmp_path, "samples")
    assert sum(sheet.shape[0] * sheet.shape[1] for sheet in found.values()) <= logged_images.MAX_TOTAL_PIXELS
    assert (min(found), max(found)) == (1, 240)
    tally("attacks refused")


def test_a_picture_in_a_strangers_folder_starts_no_program(tmp_path, monkeypatch, tally):
    path = tmp_path / "anomalies_x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    monkeypatch.setattr("subprocess.check_call", lambda *args, **rest: pytest.fail("a program was started"))
    with pytest.raises(OSError, match="cannot identify"):
        evaluations.write_evaluation(tmp_path, 1, {}, {"eval/anomalies_x": path}, None)
    tally("attacks refused")
