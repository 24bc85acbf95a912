"""Checkpoints: one file of tensors, numbers and strings, written aside and renamed, so that it is whole or absent.

A run keeps `last.pt` and, for the case that a disk spoils it, `before.pt`, which was the last one until then: a folder
takes three times a checkpoint (a `best.pt` has no optimizers and is smaller), and four times for the moment in which
the next one is written.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aectl.system.atomic_write import written
from aectl.training.checkpoint_schema import LARGEST, SchemaError, check_pickle, check_resumable, check_tensors

FORMAT = 1
LAST, BEFORE = "last.pt", "before.pt"
LARGE, HOLES = 2**26, 64
"""Bytes of a file from which on its holes count, and how many times larger than what it takes of the disk it may be."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format."""


class Unusable(CheckpointError):
    """A checkpoint that is missing or damaged: the one before may take its place."""


def save(path: Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write `state` so that a crash at any instant leaves either the old file or the new one.

    The old one becomes `keep`, if that is given. Raises OSError, which names the file; a folder that is gone does not
    come back.
    """
    path.parent.mkdir(exist_ok=True)
    with written(path, keep=keep) as file:
        torch.save({"format": FORMAT, **state}, file)


def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name, those that are slices of larger ones copied: a file would hold the whole.

    What has two names has both afterwards too.
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
    """Read a checkpoint; code in it is never run. Raises CheckpointError if it cannot be used."""
    if not path.is_file():
        raise Unusable(f"no checkpoint {path}")
    check_holes(path)
    content = io.BytesIO(path.read_bytes())
    try:
        check_archive(content)
        state = torch.load(content, map_location=device, weights_only=True)
        check_tensors(state)
    except SchemaError as error:
        raise Unusable(f"{path} is damaged or no checkpoint of aectl: {error}") from error
    except Exception as error:
        # torch, zipfile and pickletools raise nearly anything of damaged bytes.
        raise Unusable(f"{path} is damaged or no checkpoint of aectl ({type(error).__name__})") from error
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is int and found > FORMAT:
        raise CheckpointError(f"{path} comes from a newer aectl: its format is {found}, this aectl reads {FORMAT}")
    if type(found) is not int or found != FORMAT:
        what = (
            repr(found)
            if found is None or (type(found) is int and abs(found) < LARGEST)
            else f"a {type(found).__name__}"
        )
        raise CheckpointError(f"{path} is no checkpoint of aectl: its format is {what}, not {FORMAT}")
    return state


def check_holes(path: Path) -> None:
    """Raise Unusable for a large file that takes hardly any disk: reading it would fill its holes with memory."""
    found = path.stat()
    taken = getattr(found, "st_blocks", math.inf) * 512
    if found.st_size > LARGE and HOLES * taken < found.st_size:
        raise Unusable(f"{path} is damaged: of its {found.st_size:,} bytes the disk has {taken:,}")


def check_archive(content: io.BytesIO) -> None:
    """Raise BadZipFile unless a file is a zip archive as torch writes it: nothing packed, held twice, or changed since.

    So reading it takes no more memory than the file has bytes; torch would unpack one that had been packed, and it
    reads without a look at the sums.
    """
    with zipfile.ZipFile(content) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is packed")
        if any(Path(member.filename).name == "constants.pkl" for member in members):
            raise zipfile.BadZipFile("it is a program of TorchScript")
        if sum(member.file_size for member in members) > content.getbuffer().nbytes:
            raise zipfile.BadZipFile("it promises more bytes than it has")
        if bad := archive.testzip():
            raise zipfile.BadZipFile(f"{bad} has another sum than was written")
        for member in members:
            if Path(member.filename).name == "data.pkl":
                check_pickle(archive.read(member))
    content.seek(0)


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits of the BLAKE2b hash of weights with their names, types and shapes."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(weights.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def exists(folder: Path) -> bool:
    """Return whether there is a checkpoint to go on from, whole or not."""
    return any((folder / name).is_file() for name in (LAST, BEFORE))


def load_resumable(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint that a run can go on from; raises Unusable if one of its fields is not of its kind."""
    state = load(path, device)
    try:
        check_resumable(state)
    except SchemaError as error:
        raise Unusable(f"{path} is damaged: {error}") from error
    check_model(state, path)
    return state


def newest(folder: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], str]:
    """Return the last checkpoint, or the one before where the last is missing or damaged, and what is wrong with it.

    Raises CheckpointError if neither can be used, or the last one is of another format.
    """
    try:
        return load_resumable(folder / LAST, device), ""
    except Unusable as error:
        if not (folder / BEFORE).is_file():
            raise
        wrong = str(error)
    try:
        return load_resumable(folder / BEFORE, device), wrong
    except Unusable as error:
        raise Unusable(f"{wrong}, and so is the one before: {BEFORE}") from error


def check_model(state: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless a checkpoint has its images' shape, classes and epoch, and weights by name."""
    shape, weights = state.get("shape"), state.get("model")
    counts = [state.get("classes"), state.get("epoch"), *(shape if isinstance(shape, list) else [])]
    if len(counts) != 5 or not all(type(count) is int and 0 <= count < 2**31 for count in counts):
        raise CheckpointError(f"{path} is damaged: it does not tell the images' shape, the classes or the epoch")
    pairs = weights.items() if isinstance(weights, dict) else [("weights", None)]
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in pairs):
        raise CheckpointError(f"{path} is damaged: its weights are no numbers by their names")
