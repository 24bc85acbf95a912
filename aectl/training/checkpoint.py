"""Checkpoints: atomically written files of tensors, numbers and strings.

A run keeps `last.pt` and its predecessor `before.pt`, which replaces a `last.pt` that the disk has damaged. With the
smaller `best.pt`, which has no optimizer state, a folder takes up to three times the size of a checkpoint, and four
times while the next one is being written.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aectl.config.untrusted_files import SparseFileError, check_sparse
from aectl.system.atomic_write import write_atomically
from aectl.training.checkpoint_schema import MAX_INT, SchemaError, check_pickle, check_resumable, check_tensors

FORMAT = 1
LAST, BEFORE = "last.pt", "before.pt"
MEMBER_NAME = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment", re.ASCII)
"""Names of the members that torch writes into an archive, without their folder."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another format."""


class UnusableCheckpoint(CheckpointError):
    """A checkpoint is missing or damaged; its predecessor may be used instead."""


def save(path: Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write `state` atomically: a crash at any instant leaves either the old file or the new one.

    The old file is renamed to `keep` if given. Raises OSError, which names the file. Parents of the folder are not
    created, so that a run folder that was deleted during training stays deleted.
    """
    path.parent.mkdir(exist_ok=True)
    with write_atomically(path, keep=keep) as file:
        torch.save({"format": FORMAT, **state}, file)


def copy_slices(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with slices of larger storages copied, since `torch.save` writes whole storages.

    Tensors that share memory under two names still share it.
    """
    found: dict[str, Tensor] = {}
    copies: dict[tuple[Any, ...], Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            place = tensor.data_ptr(), tensor.shape, tensor.stride()
            tensor = copies.setdefault(place, tensor.clone())
        found[name] = tensor
    return found


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running code from it; raises CheckpointError if it cannot be used."""
    if not path.is_file():
        raise UnusableCheckpoint(f"no checkpoint {path}")
    try:
        check_sparse(path)
        archive = rebuild_archive(path.read_bytes())
        state = torch.load(archive, map_location=device, weights_only=True)
        check_tensors(state)
    except SchemaError as error:
        raise UnusableCheckpoint(f"{path} is damaged or not a checkpoint of aectl: {error}") from error
    except SparseFileError as error:
        raise UnusableCheckpoint(f"{path} is damaged: {error}") from error
    except Exception as error:
        # torch, zipfile and pickletools raise almost any exception on damaged bytes.
        raise UnusableCheckpoint(f"{path} is damaged or not a checkpoint of aectl ({type(error).__name__})") from error
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is int and found > FORMAT:
        raise CheckpointError(f"{path} comes from a newer aectl: its format is {found}, this aectl reads {FORMAT}")
    if type(found) is not int or found != FORMAT:
        what = (
            repr(found)
            if found is None or (type(found) is int and abs(found) < MAX_INT)
            else f"a {type(found).__name__}"
        )
        raise CheckpointError(f"{path} is not a checkpoint of aectl: its format is {what}, not {FORMAT}")
    return state


def rebuild_archive(content: bytes) -> io.BytesIO:
    """Return a new archive with the members that torch reads; raises BadZipFile for a suspicious archive.

    Members must be uncompressed, distinct and unchanged, so that reading them takes no more memory than the file has
    bytes. The archive is rebuilt because torch's reader and Python's can see different members in one file: torch's
    ignores case, and looks elsewhere for the central directory.
    """
    checked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(checked, "w") as new:
        members = archive.infolist()
        names = [member.filename for member in members]
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is compressed")
        if len({name.lower() for name in names}) < len(names):
            raise zipfile.BadZipFile("two members have one name")
        if any(Path(name).name == "constants.pkl" for name in names):
            raise zipfile.BadZipFile("it is a TorchScript program")
        if sum(member.file_size for member in members) > len(content):
            raise zipfile.BadZipFile("it declares more bytes than it has")
        if bad := archive.testzip():
            raise zipfile.BadZipFile(f"{bad} has a wrong checksum")
        for name in names:
            folder, _, inner = name.partition("/")
            if folder == names[0].partition("/")[0] and MEMBER_NAME.fullmatch(inner):
                member = archive.read(name)
                if inner == "data.pkl":
                    check_pickle(member)
                new.writestr(f"archive/{inner}", member)
    checked.seek(0)
    return checked


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits of the BLAKE2b hash of the weights, their names, types and shapes."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def exists(folder: Path) -> bool:
    """Return whether there is a checkpoint to resume from, damaged or not."""
    return any((folder / name).is_file() for name in (LAST, BEFORE))


def load_resumable(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint to resume from; raises UnusableCheckpoint also if a field has an unexpected type."""
    state = load(path, device)
    try:
        check_resumable(state)
    except SchemaError as error:
        raise UnusableCheckpoint(f"{path} is damaged: {error}") from error
    check_contents(state, path)
    return state


def load_newest(folder: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], str]:
    """Return `last.pt`, or `before.pt` if that is missing or damaged, and what is wrong with `last.pt`.

    Raises CheckpointError if neither can be used, or if `last.pt` is of another format.
    """
    try:
        return load_resumable(folder / LAST, device), ""
    except UnusableCheckpoint as error:
        if not (folder / BEFORE).is_file():
            raise
        wrong = str(error)
    try:
        return load_resumable(folder / BEFORE, device), wrong
    except UnusableCheckpoint as error:
        raise UnusableCheckpoint(f"{wrong}, and so is the one before: {BEFORE}") from error


def check_contents(state: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless a checkpoint has valid `shape`, `classes`, `epoch` and `model` entries."""
    shape, weights = state.get("shape"), state.get("model")
    counts = [state.get("classes"), state.get("epoch"), *(shape if isinstance(shape, list) else [])]
    if len(counts) != 5 or not all(type(count) is int and 0 <= count < 2**31 for count in counts):
        raise CheckpointError(f"{path} is damaged: it lacks the shape of the images, the classes or the epoch")
    pairs = weights.items() if isinstance(weights, dict) else [("weights", None)]
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in pairs):
        raise CheckpointError(f"{path} is damaged: its weights are not tensors by name")
