"""Disks that are full, read-only or gone: said in a line or two, nothing good lost, and resume= works afterwards."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from aectl.figures import curves
from aectl.training import checkpoint
from aectl.training.observers import CsvLog
from tests.faults.children import Fault, finish
from tests.faults.small import check_same, words

MODEL = "undercomplete"
FREE = range(0, 480, 20)
"""Kilobytes that are left on the disk: from none to more than a run needs."""
PAGE = 4096
SHORT = (0, 240)


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB, which can be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', None) or error}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def whole(whole):
    """The folder of a run that nothing happened to."""
    return whole(MODEL)


def leave(disk, kilobytes):
    """Fill a disk up to some kilobytes."""
    space = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(space.f_bavail * space.f_frsize - 1024 * kilobytes))


def check_said(code, out, err, *what):
    """Assert that a command has failed, and said why in a line or two."""
    assert code != 0, out
    assert 1 <= len(err.strip().splitlines()) <= 2, err
    assert "Traceback" not in out + err and "Exception" not in out + err
    for one in what:
        assert one in err, err


def again(run):
    """Return the words that go on with a run, or begin it where it has not begun."""
    return ["train", f"resume={run}"] if (run / "run.json").is_file() else words(MODEL, run)


@pytest.mark.parametrize("free", FREE)
def test_a_run_on_a_disk_that_fills_goes_on_once_there_is_room(free, aectl, disk, whole, torture, tally):
    if not torture and free not in SHORT:
        pytest.skip("in the long form")
    run = disk / "run"
    leave(disk, free)
    code, out, err = aectl(*words(MODEL, run))
    if code == 0:
        assert free > 300
        return
    check_said(code, out, err, "the disk is full: cannot write", str(run))
    if (run / "run.json").is_file():
        assert f"then aectl train resume={run}" in err
        assert json.loads((run / "run.json").read_text())["status"] in ("failed", "running")
    if (run / "checkpoints/last.pt").exists():
        checkpoint.load(run / "checkpoints/last.pt")
    assert not list(disk.glob("**/.*.aside"))
    (disk / "ballast").unlink()
    code, out, err = aectl(*again(run))
    assert code == 0, out + err
    check_same(run, whole)
    tally("full disks survived")


def test_a_disk_that_is_full_for_a_runs_last_words_alone(aectl, disk, monkeypatch):
    """All that a GAN has left to write then is one event, which says that the run is complete."""
    run, true = disk / "run", checkpoint.save

    def fill(path, state, *more):
        true(path, state, *more)
        if path.name == "last.pt" and state["epoch"] == 6:
            leave(disk, 0)
            for events in run.glob("events.out.tfevents.*"):
                # No byte of its last block is left either.
                events.write_bytes(events.read_bytes() + bytes(-events.stat().st_size % PAGE))

    monkeypatch.setattr(checkpoint, "save", fill)
    check_said(*aectl(*words("gan", run)), f"the disk is full: cannot write {run}\n", f"then aectl train resume={run}")
    (disk / "ballast").unlink()
    assert aectl("train", f"resume={run}")[0] == 0
    assert json.loads((run / "run.json").read_text())["status"] == "done"


@contextmanager
def no_larger_than(size):
    """Refuse, within, to let any file become larger than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [2_000, 20_000, 40_000, 71_000])
def test_a_file_that_may_not_grow_is_named_and_the_run_goes_on_later(size, aectl, tmp_path, whole, torture, tally):
    if not torture and size != 40_000:
        pytest.skip("in the long form")
    run = tmp_path / "run"
    with no_larger_than(size):
        code, out, err = aectl(*words(MODEL, run))
    check_said(code, out, err, "cannot write or read", str(run))
    code, out, err = aectl(*again(run))
    assert code == 0, out + err
    check_same(run, whole)
    tally("refused writes survived")


@pytest.mark.parametrize(
    ("command", "free"), [*(("eval", free) for free in (0, 8, 40, 200)), *(("sample", free) for free in (0, 8, 40))]
)
def test_pictures_and_numbers_on_a_full_disk(command, free, aectl, disk, whole, torture, tally):
    if not torture and (command, free) != ("sample", 8):
        pytest.skip("in the long form")
    run = disk / "run"
    shutil.copytree(whole, run)
    before = (run / "metrics.json").read_text()
    leave(disk, free)
    more = ["only=[reconstruction]"] if command == "eval" else ["kind=reconstruction"]
    code, out, err = aectl(command, f"run={run}", *more, "device=cpu", "device.threads=1")
    check_said(code, out, err, "the disk is full: cannot write", str(run), "free some space")
    assert json.loads(before).items() <= json.loads((run / "metrics.json").read_text()).items()
    assert not list(disk.glob("**/.*.aside"))
    (disk / "ballast").unlink()
    code, out, err = aectl(command, f"run={run}", *more, "device=cpu", "device.threads=1")
    assert code == 0, out + err
    tally("full disks survived, by eval and sample")


def test_nothing_can_be_written_at_all(aectl, disk, whole):
    run = disk / "run"
    shutil.copytree(whole, run)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    cannot = ("cannot write or read", str(disk), "Read-only file system")
    check_said(*aectl(*words(MODEL, disk / "other")), *cannot)
    check_said(*aectl("train", f"resume={run}", "epochs=7"), *cannot)
    for command in (["eval", "only=[reconstruction]"], ["sample", "kind=reconstruction"]):
        check_said(*aectl(*command, f"run={run}", "device=cpu", "device.threads=1"), *cannot)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert sorted(p.name for p in disk.iterdir()) == ["run"]
    check_same(run, whole)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="root gives up its powers in Linux's own way")
def test_a_folder_without_permission(whole, tmp_path):
    run = tmp_path / "closed" / "run"
    shutil.copytree(whole, run)
    folders = [run.parent, *(path for path in run.rglob("*") if path.is_dir()), run]
    for folder in folders:
        folder.chmod(0o555)
    commands = (
        words(MODEL, run.parent / "other"),
        ["train", f"resume={run}", "epochs=7"],
        ["eval", "only=[reconstruction]", f"run={run}", "device=cpu", "device.threads=1"],
        ["sample", "kind=reconstruction", f"run={run}", "device=cpu", "device.threads=1"],
    )
    for command in commands:
        code, said = finish(command, run, Fault(obey=True), place=tmp_path / "open")
        assert code != 0 and "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("aectl: ")]
        assert "cannot write or read" in line and str(run.parent) in line and "Permission denied" in line
    for folder in folders:
        folder.chmod(0o755)
    check_same(run, whole)


def test_a_folder_that_is_removed_while_it_trains_does_not_come_back(aectl, tmp_path, monkeypatch):
    run, ended = tmp_path / "run", CsvLog.epoch_ended

    def gone(log, trainer, epoch):
        if epoch.number == 3:
            shutil.rmtree(run)
        ended(log, trainer, epoch)

    monkeypatch.setattr(CsvLog, "epoch_ended", gone)
    check_said(*aectl(*words(MODEL, run)), f"{run} is gone: it was removed while it trained")
    assert not run.exists()


@pytest.mark.parametrize("place", ["validate", "save"])
def test_nor_does_it_wherever_the_run_stands(place, aectl, tmp_path, monkeypatch):
    from aectl.training import trainer

    run = tmp_path / "run"
    true, owner = {"validate": (trainer.validate, trainer), "save": (checkpoint.save, checkpoint)}[place]

    def gone(*arguments, **settings):
        shutil.rmtree(run, ignore_errors=True)
        return true(*arguments, **settings)

    monkeypatch.setattr(owner, place, gone)
    check_said(*aectl(*words(MODEL, run)), f"{run} is gone: it was removed while it trained")
    assert not run.exists()


DAMAGE = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one bit": lambda content: flipped(content),
    "a block of zeros": lambda content: content[:8192] + bytes(4096) + content[12288:],
}


def flipped(content):
    """Return bytes of which one bit, among the weights, is another."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
def test_a_damaged_checkpoint_costs_one_epoch_and_a_line(damage, aectl, tmp_path, whole, torture, tally):
    if not torture and damage != "one bit":
        pytest.skip("in the long form")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints/last.pt"
    if damage == "missing":
        last.unlink()
    else:
        last.write_bytes(DAMAGE[damage](last.read_bytes()))
    code, out, err = aectl("eval", f"run={run}", "checkpoint=last", "device=cpu")
    check_said(code, out, err, str(last), "checkpoint=best")
    code, out, err = aectl("train", f"resume={run}")
    assert code == 0, out + err
    (line,) = [line for line in out.splitlines() if str(last) in line]
    assert "from the one before, after epoch 5" in line
    assert line in (run / "train.log").read_text()
    check_same(run, whole)
    tally("damaged checkpoints survived")


def test_a_damaged_last_checkpoint_never_takes_the_place_of_the_one_before(aectl, tmp_path, whole, monkeypatch):
    run, true = tmp_path / "run", checkpoint.save
    shutil.copytree(whole, run)
    (run / "checkpoints/last.pt").write_bytes(b"")
    before = (run / "checkpoints/before.pt").read_bytes()

    def full(path, *arguments):
        true(path, *arguments)
        if path.name == "last.pt":
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "save", full)
    check_said(*aectl("train", f"resume={run}"), "the disk is full")
    assert (run / "checkpoints/before.pt").read_bytes() == before
    checkpoint.load(run / "checkpoints/last.pt")


def test_two_damaged_checkpoints_are_an_error_and_a_newer_one_is_left_alone(aectl, tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    folder = run / "checkpoints"
    checkpoint.torch.save({"format": 99}, folder / "last.pt")
    check_said(*aectl("train", f"resume={run}"), "its format is 99", "newer aectl")
    for name in ("last.pt", "before.pt"):
        (folder / name).write_bytes(b"PK")
    check_said(*aectl("train", f"resume={run}"), "last.pt is damaged", "and so is the one before")


def test_lost_checkpoints_are_not_taken_for_a_run_that_has_none_yet(aectl, tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.csv").read_bytes()
    check_said(*aectl("train", f"resume={run}", "epochs=9"), "no checkpoint", "last.pt")
    assert (run / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 9, 60])
def test_half_a_row_and_half_an_event_do_no_harm(cut, aectl, tmp_path, whole, torture):
    if not torture and cut != 9:
        pytest.skip("in the long form")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    folder = run / "checkpoints"
    (folder / "before.pt").replace(folder / "last.pt")
    for name in ("metrics.csv", next(run.glob("events.out.tfevents.*")).name):
        path = run / name
        path.write_bytes(path.read_bytes()[:-cut])
    code, out, err = aectl("train", f"resume={run}")
    assert code == 0, out + err
    check_same(run, whole)


def test_a_table_that_is_no_table_does_not_break_a_resume(aectl, tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = run / "metrics.csv"
    path.write_bytes(path.read_bytes() + bytes(100) + b"\n\xff\xfe,,,\n7,fit\n")
    code, out, err = aectl("train", f"resume={run}", "epochs=7")
    assert code == 0, out + err
    with path.open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(n) for n in range(1, 8)]


@pytest.mark.parametrize("text", ["", '{"status": "done", '])
def test_a_damaged_record_is_said_to_be_damaged(text, aectl, tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "run.json").write_text(text)
    check_said(*aectl("train", f"resume={run}", "epochs=7"), f"{run / 'run.json'} cannot be read")


def test_what_killed_processes_left_aside_is_cleared_and_what_others_write_is_not(aectl, tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    here = os.uname().nodename
    # No process has so large a number; this one is alive; of other machines only age is known.
    dead, alive, far, old = (f"{2**22 + 1}@{here}", f"{os.getppid()}@{here}", "1@elsewhere", "2@elsewhere")
    for folder, name in ((run, "run.json"), (run / "checkpoints", "last.pt")):
        for process in (dead, alive, far, old):
            (folder / f".{name}.{process}.aside").write_bytes(b"half")
        os.utime(folder / f".{name}.{old}.aside", (0, 0))
    assert aectl("train", f"resume={run}", "epochs=7")[0] == 0
    for folder in (run, run / "checkpoints"):
        left = sorted(path.name.split(".", 3)[-1] for path in folder.glob(".*.aside"))
        assert left == sorted(f"{one}.aside" for one in (alive, far)), left


def test_without_second_names_for_files_the_last_checkpoint_is_renamed(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path, keep = tmp_path / "last.pt", tmp_path / "before.pt"
    for number in range(3):
        checkpoint.save(path, {"n": number}, keep)
    assert [checkpoint.load(one)["n"] for one in (path, keep)] == [2, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["before.pt", "last.pt"]


def test_curves_are_drawn_without_the_row_that_a_full_disk_has_cut(tmp_path, whole):
    path = tmp_path / "metrics.csv"
    content = (whole / "metrics.csv").read_bytes()
    path.write_bytes(content[: content.rindex(b"\n", 0, -2) + 8])
    assert curves.read_curves(path)[0] == [1, 2, 3, 4, 5]
