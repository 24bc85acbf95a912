"""Checkpoints: one file of tensors, numbers and strings, written aside and renamed, so that it is whole or absent.

A run keeps `last.pt` and, for the case that a disk spoils it, `before.pt`, which was the last one until then: a folder
takes three times a checkpoint (a `best.pt` has no optimizers and is smaller), and four times for the moment in which
the next one is written.
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

from aectl.config.untrusted_files import HolesError, check_holes
from aectl.system.atomic_write import written
from aectl.training.checkpoint_schema import LARGEST, SchemaError, check_pickle, check_resumable, check_tensors

FORMAT = 1
LAST, BEFORE = "last.pt", "before.pt"
MEMBER = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment", re.ASCII)
"""Names of an archive's members, without the folder that they are in."""


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
    try:
        check_holes(path)
        archive = checked_archive(path.read_bytes())
        state = torch.load(archive, map_location=device, weights_only=True)
        check_tensors(state)
    except SchemaError as error:
        raise Unusable(f"{path} is damaged or no checkpoint of aectl: {error}") from error
    except HolesError as error:
        raise Unusable(f"{path} is damaged: {error}") from error
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


def checked_archive(content: bytes) -> io.BytesIO:
    """Return a zip archive with those members of a file's that torch writes; raises BadZipFile unless all are checked.

    Reading them takes no more memory than the file has bytes: nothing is packed, held twice, or changed since. torch
    gets an archive that is written anew, since its reader finds other members in some files than Python's: it ignores
    case, and looks elsewhere for the list of them.
    """
    checked = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(checked, "w") as new:
        members = archive.infolist()
        names = [member.filename for member in members]
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise zipfile.BadZipFile("it is packed")
        if len({name.lower() for name in names}) < len(names):
            raise zipfile.BadZipFile("two members have one name")
        if any(Path(name).name == "constants.pkl" for name in names):
            raise zipfile.BadZipFile("it is a program of TorchScript")
        if sum(member.file_size for member in members) > len(content):
            raise zipfile.BadZipFile("it promises more bytes than it has")
        if bad := archive.testzip():
            raise zipfile.BadZipFile(f"{bad} has another sum than was written")
        for name in names:
            folder, _, inner = name.partition("/")
            if folder == names[0].partition("/")[0] and MEMBER.fullmatch(inner):
                member = archive.read(name)
                if inner == "data.pkl":
                    check_pickle(member)
                new.writestr(f"archive/{inner}", member)
    checked.seek(0)
    return checked


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
