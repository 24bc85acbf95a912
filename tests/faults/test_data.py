"""Data that are late, damaged or changed: the right data or none (see tests/data/ and test_run_data.py, too)."""

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import aectl as package
from aectl.data import array_files, downloads, image_files
from aectl.data.datasets import parse_idx
from aectl.data.downloads import DataError
from aectl.runs.loading import drop_incomplete_root
from aectl.sampling import logged_images
from aectl.sampling.request import Impossible
from tests.faults.payload import Payload

NAMES = list(downloads.COLLECTIONS["mnist"].digests)


def idx_file(array):
    """Return an array of bytes as an IDX file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def small_mnist():
    """Return the files of a data set of 20 images."""
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (20, 4, 4), np.uint8), draw.integers(0, 10, 20, np.uint8)
    return {name: idx_file(images if "images" in name else labels) for name in NAMES}


FILES = small_mnist()


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Small files in place of MNIST's, and no source unless the test names one."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    small = {name: replace(one, digests=digests) for name, one in downloads.COLLECTIONS.items()}
    monkeypatch.setattr(downloads, "COLLECTIONS", small)
    monkeypatch.setattr(downloads, "list_sources", lambda name: iter(()))


def put(root, **changed):
    """Write the files below a root, some of them changed; returns their folder."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in {**FILES, **changed}.items():
        (raw / name).write_bytes(content)
    return raw


def damaged(content, every):
    """Yield copies with one bit flipped, one byte gone, one too many, or the end missing, at each `every`-th byte."""
    for position in range(0, len(content), every):
        for bit in range(8) if every == 1 else (position % 8,):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            yield bytes(flipped)
        yield content[:position] + content[position + 1 :]
        yield content[:position] + b"\0" + content[position:]
        yield content[:position]


@pytest.mark.parametrize("part", range(4))
def test_no_damaged_file_is_ever_used(tmp_path, torture, tally, part):
    name = NAMES[part]
    content = FILES[name]
    for packed in (content, gzip.compress(content, mtime=0)):
        for bad in damaged(packed, 1 if torture else 29):
            put(tmp_path, **{name: bad})
            with contextlib.suppress(DataError):
                # A flipped bit in gzip's own header, such as that of its system, unpacks to the same bytes.
                assert downloads.read_published_files("mnist", [name], tmp_path) == {name: content}
                assert packed is not content
                continue
            tally("damaged files refused")


def test_an_idx_file_is_one_or_is_refused(tmp_path, torture, tally):
    content = FILES["train-images-idx3-ubyte"]
    for bad in damaged(content, 1 if torture else 7):
        try:
            found = parse_idx(bad, tmp_path / "x", 3)
            assert len(bad) == len(content)
            assert bad[:16] == content[:16]
            assert found.numel() == 320
        except DataError:
            tally("damaged files refused")
    for header in (b"", b"\0\0\x08", b"\0\0\x0d\x03", b"\0\0\x08\x03" + b"\xff" * 12, b"\x1f\x8b\x08\x00", b"<html>"):
        with pytest.raises(DataError):
            parse_idx(header + bytes(100), tmp_path / "x", 3)


def test_a_file_that_is_none_is_passed_over_at_once(tmp_path, monkeypatch, tally):
    raw = put(tmp_path)
    name = NAMES[0]
    for number in range(4):
        (raw / name).unlink()
        if number == 0:
            os.mkfifo(raw / name)
        elif number == 1:
            (raw / name).symlink_to("/dev/zero")
        elif number == 2:
            (raw / name).mkdir()
        else:
            with (raw / name).open("wb") as file:
                file.truncate(2**40)
        with pytest.raises(DataError):
            downloads.read_published_files("mnist", [name], tmp_path)
        (raw / name).rmdir() if number == 2 else None
        (raw / name).touch()
        tally("damaged files refused")


class Server(http.server.BaseHTTPRequestHandler):
    """A mirror on this machine that does what its path says."""

    def do_GET(self):
        kind, name = self.path.strip("/").split("/")
        content = gzip.compress(FILES[name.removesuffix(".gz")], mtime=0)
        getattr(self, kind)(content)

    def good(self, content):
        self.answer(content)

    def answer(self, content, length=None, status=200, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(content) if length is None else length, **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(content)

    def page(self, content):
        self.answer(b"<html>Please log in</html>")

    def missing(self, content):
        self.answer(b"not found", status=404)

    def broken(self, content):
        self.answer(content[: len(content) // 2], length=len(content))

    def half(self, content):
        self.answer(content[: len(content) // 2])

    def empty(self, content):
        self.answer(b"")

    def bomb(self, content):
        self.answer(gzip.compress(bytes(2**20), mtime=0))

    def hangs(self, content):
        self.server.stop.wait(10)

    def drips(self, content):
        self.send_response(200)
        self.end_headers()
        for number in range(len(content)):
            if self.server.stop.wait(0.02):
                return
            self.wfile.write(content[number : number + 1])

    def endless(self, content):
        self.send_response(200)
        self.end_headers()
        while not self.server.stop.is_set():
            self.wfile.write(bytes(2**16))

    def to_file(self, content):
        self.answer(b"", status=302, Location=f"file://{self.server.secret}")

    def to_itself(self, content):
        self.answer(b"", status=302, Location=self.path)

    def to_another(self, content):
        self.answer(b"", status=302, Location=self.path.replace("to_another", "page"))

    def nonsense(self, content):
        self.wfile.write(b"\x00\xff SSH-2.0\r\n\r\n")

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path):
    """The address of a server of bad manners."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads, server.block_on_close = True, False
    server.stop, server.secret = threading.Event(), tmp_path / "secret"
    server.secret.write_bytes(FILES[NAMES[0]])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


BAD = {
    "page": "differ from the published file",
    "missing": "Not Found",
    "broken": "damaged gzip data",
    "half": "damaged gzip data",
    "empty": "differ from the published file",
    "bomb": "differ from the published file",
    "hangs": "timed out",
    "drips": "too large or too slow",
    "endless": "too large or too slow",
    "to_file": "Redirection to url .file:",
    "to_itself": "infinite loop",
    "to_another": "differ from the published file",
    "nonsense": "SSH-2.0",
}
"""What a source may do, and what is said of it."""


@pytest.mark.parametrize("kind", BAD)
def test_a_source_of_bad_manners_is_passed_over_for_the_next(tmp_path, monkeypatch, caplog, mirror, kind, tally):
    monkeypatch.setattr(downloads, "MAX_FILE_BYTES", 2**20)
    monkeypatch.setattr(downloads, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "TRANSFER_SECONDS", 0.2)

    def fetcher(kind):
        return f"{mirror}/{kind}", lambda names, scratch: downloads.download(f"{mirror}/{kind}/", names, scratch)

    monkeypatch.setattr(downloads, "list_sources", lambda name: iter([fetcher(kind)]))
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        downloads.read_published_files("mnist", NAMES, tmp_path / "data")
    assert re.search(BAD[kind], str(caught.value))
    assert time.monotonic() - started < 5
    assert list((tmp_path / "data" / "MNIST" / "raw").iterdir()) == []
    monkeypatch.setattr(downloads, "list_sources", lambda name: iter([fetcher(kind), fetcher("good")]))
    assert downloads.read_published_files("mnist", NAMES, tmp_path / "data") == FILES
    tally("bad sources passed over")


KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
from aectl.data import downloads
from tests_files import FILES, DIGESTS

def slow(names, scratch):
    for name in names:
        yield name, FILES[name]
        (scratch / "half").write_bytes(FILES[name][:9])
        print("one", flush=True)
        time.sleep(60)

downloads.COLLECTIONS["mnist"] = replace(downloads.COLLECTIONS["mnist"], digests=DIGESTS)
downloads.list_sources = lambda name: iter([("slow", slow)])
downloads.read_published_files("mnist", list(FILES), Path(sys.argv[1]))
"""


def test_a_process_killed_halfway_leaves_whole_files_and_the_next_goes_on(tmp_path, monkeypatch, tally):
    (tmp_path / "tests_files.py").write_text(
        f"FILES = {FILES!r}\nDIGESTS = {downloads.COLLECTIONS['mnist'].digests!r}\n"
    )
    (tmp_path / "program.py").write_text(KILLED)
    root = tmp_path / "data"
    with subprocess.Popen([sys.executable, "program.py", str(root)], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"one\n"
        process.send_signal(signal.SIGKILL)
    raw = root / "MNIST" / "raw"
    assert [path.read_bytes() for path in raw.iterdir()] == [FILES[NAMES[0]]]
    assert list(raw.parent.glob(".fetch-*"))
    asked = []

    def good(names, scratch):
        asked.extend(names)
        yield from ((name, FILES[name]) for name in names)

    monkeypatch.setattr(downloads, "list_sources", lambda name: iter([("good", good)]))
    assert downloads.read_published_files("mnist", NAMES, root) == FILES
    assert asked == NAMES[1:]
    assert not list(raw.parent.glob(".fetch-*"))
    tally("killed downloads resumed")


def test_an_archive_writes_nothing_and_is_believed_in_no_link_and_no_size(tmp_path, monkeypatch, tally):
    name, place = NAMES[0], tmp_path / "a.tar"
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    with tarfile.open(place, "w") as tar:
        for kind in kinds:
            member = tarfile.TarInfo(f"data/{name}")
            member.type, member.linkname = kind, str(tmp_path / "secret")
            tar.addfile(member)
        for path in (f"../data/{name}", f"/data/{name}", f"data/../data/{name}", f"data//{name}", f"data/{name}/"):
            member = tarfile.TarInfo(path)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"no"))
    assert list(downloads.read_tar_members(place, "data/", NAMES)) == []
    monkeypatch.setattr(downloads, "MAX_FILE_BYTES", 100)
    with tarfile.open(tmp_path / "large.tar", "w") as tar:
        member = tarfile.TarInfo(f"data/{name}")
        member.size = 101
        tar.addfile(member, io.BytesIO(bytes(101)))
    assert list(downloads.read_tar_members(tmp_path / "large.tar", "data/", NAMES)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "large.tar"]
    tally("attacks refused", 12)


def test_a_stored_config_says_where_to_read_and_not_where_to_write(tmp_path, monkeypatch, caplog, tally):
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "own"))
    node = {"_target_": "aectl.data.datasets.mnist", "root": str(tmp_path / "elsewhere")}
    assert drop_incomplete_root(node)["root"] is None
    patches = {"_target_": "aectl.data.patches.patches", "of": "mnist", "root": str(tmp_path / "elsewhere")}
    assert drop_incomplete_root(patches)["root"] is None
    raw = put(tmp_path / "elsewhere")
    assert drop_incomplete_root(node) is node
    (raw / NAMES[0]).write_bytes(b"damaged")
    assert drop_incomplete_root(node)["root"] is None
    (raw / NAMES[0]).unlink()
    (raw / NAMES[0]).symlink_to("/dev/zero")
    assert drop_incomplete_root(node)["root"] is None
    assert drop_incomplete_root({**node, "root": str(tmp_path / "own")})["root"] == str(tmp_path / "own")
    assert drop_incomplete_root({"_target_": "aectl.data.folder.folder", "root": "x"})["root"] == "x"
    tally("attacks refused", 4)


def test_a_run_of_a_stranger_makes_no_folder_where_it_says(kept, tmp_path, monkeypatch, tally):
    monkeypatch.setenv("AECTL_DATA", str(tmp_path / "own"))
    run = kept()
    path = run / ".hydra" / "config.yaml"
    text = path.read_text().replace("aectl.data.datasets.digits", "aectl.data.datasets.mnist")
    path.write_text(text.replace("  test: 360\n", f"  root: {tmp_path / 'elsewhere'}\n"))
    with pytest.raises(DataError):
        package.dataset(run).split("test")
    assert not (tmp_path / "elsewhere").exists()
    tally("attacks refused")


def test_arrays_of_objects_are_not_unpickled(tmp_path, tally):
    objects = np.array([Payload(tmp_path / "canary")], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 4, 4), np.uint8), y=objects)
    (tmp_path / "c.npy").write_bytes(__import__("pickle").dumps(objects))
    for name in ("a.npy", "a.npz", "b.npz", "c.npy"):
        with pytest.raises(DataError, match="pickles are not loaded"):
            array_files.read_array_file(tmp_path / name)
        tally("attacks refused")
    assert not (tmp_path / "canary").exists()


def npy(header, content=b""):
    """Return a .npy file with a header of one's own."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + content


HEADERS = {
    "more than there is": "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8)}",
    "more than can be": "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 9, 9)}",
    "less than none": "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1, 8, 8)}",
    "depth": "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 4000 + ")" * 4000 + "}",
    "a call": "{'descr': __import__('os').system('touch canary'), 'fortran_order': False, 'shape': (1, 8, 8)}",
    "length": " " * 20_000 + "{}",
    "no types": "{'descr': [('a', '|u1', (1000000, 1000000))], 'fortran_order': False, 'shape': (1000000,)}",
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_promises_more_is_refused(tmp_path, monkeypatch, what, tally):
    monkeypatch.chdir(tmp_path)
    content = npy(HEADERS[what], bytes(64))
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError):
            array_files.read_array_file(tmp_path / name)
        tally("damaged files refused")
    assert not (tmp_path / "canary").exists()


def test_a_file_that_unpacks_to_more_than_a_machine_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "MAX_UNPACKED_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2**15, 8, 8), np.uint8))
    with pytest.raises(DataError, match="would unpack to 2,0"):
        array_files.read_array_file(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.zeros((2**15, 8, 8), np.uint8))
    assert len(array_files.read_array_file(tmp_path / "b.npz")["all"].pixels) == 2**15


def arrays():
    """Return small files of arrays by their names."""
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    whole, packed, plain = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(whole, x=images, y=np.arange(3))
    np.savez_compressed(packed, x=images, y=np.arange(3))
    np.save(plain, images)
    return {"whole.npz": whole.getvalue(), "packed.npz": packed.getvalue(), "plain.npy": plain.getvalue()}


@pytest.mark.parametrize("name", arrays())
def test_damaged_arrays_are_arrays_or_are_refused(tmp_path, torture, tally, name):
    file = tmp_path / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bad in damaged(arrays()[name], 1 if torture else 13):
            file.write_bytes(bad)
            try:
                images, labels, _ = array_files.read_array_file(file)["all"]
                assert len(images) == len(labels)
            except DataError:
                tally("damaged files refused")


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff", "jpeg", "webp", "ppm", "tga", "pcx", "ico"])
def test_damaged_pictures_are_pictures_or_are_refused(tmp_path, torture, tally, kind):
    picture, stream = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)), io.BytesIO()
    picture.save(stream, kind)
    file = tmp_path / f"x.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bad in damaged(stream.getvalue(), 1 if torture else 17):
            file.write_bytes(bad)
            try:
                found = image_files.read_image(file, (1, 4, 4))
                assert torch.isfinite(found).all()
            except DataError:
                tally("damaged files refused")


SCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(canary) run\n%%EOF\n"


def test_no_picture_is_handed_to_another_program(tmp_path, monkeypatch, tally):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)
    for name in ("x.eps", "x.png", "x.ps"):
        (tmp_path / name).write_bytes(SCRIPT)
        with pytest.raises(DataError):
            image_files.read_image(tmp_path / name, (1, 8, 8))
        tally("attacks refused")
    assert not (tmp_path / "canary").exists()
    assert not image_files.is_image(tmp_path / "x.eps")


def test_a_picture_in_an_event_file_is_a_png_or_none(tmp_path, monkeypatch, tally):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None, raising=False)
    for encoded in (SCRIPT, b"", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(Impossible, match="event files is damaged"):
            logged_images.decode_pixels(encoded)
        tally("attacks refused")
    assert not (tmp_path / "canary").exists()


def test_a_picture_of_a_billion_pixels_is_refused(tmp_path, tally):
    stream = io.BytesIO()
    Image.new("1", (8, 8)).save(stream, "png")
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    content[29:33] = struct.pack(">I", __import__("zlib").crc32(bytes(content[12:29])))
    (tmp_path / "x.png").write_bytes(bytes(content))
    with pytest.raises(DataError, match="cannot be read as an image"):
        image_files.read_image(tmp_path / "x.png", (1, 8, 8))
    tally("damaged files refused")
