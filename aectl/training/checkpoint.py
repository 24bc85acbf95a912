"""Checkpoints: one file of tensors, numbers and strings, written aside and renamed, so that it is whole or absent."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` so that a crash at any instant leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name, those that are slices of larger ones copied: a file would hold the whole.

    What has two names has both afterwards too.
    """
    found, copies = {}, {}
    for name, tensor in tensors.items():
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            place = tensor.data_ptr(), tensor.shape, tensor.stride()
            tensor = copies.setdefault(place, tensor.clone())
        found[name] = tensor
    return found


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; code in it is never run. Raises CheckpointError if it cannot be used."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}")
    content = io.BytesIO(path.read_bytes())
    try:
        check_archive(content)
        state = torch.load(content, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint of aectl ({type(error).__name__})") from error
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is int and found > FORMAT:
        raise CheckpointError(f"{path} comes from a newer aectl: its format is {found}, this aectl reads {FORMAT}")
    if found != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of aectl: its format is {found!r}, not {FORMAT}")
    return state


def check_archive(content: io.BytesIO) -> None:
    """Raise BadZipFile unless a file is a zip archive as torch writes it: nothing packed, nothing held twice.

    So reading it takes no more memory than the file has bytes; torch would unpack one that had been packed.
    """
    with zipfile.ZipFile(content) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise zipfile.BadZipFile("it is packed")
    if any(Path(member.filename).name == "constants.pkl" for member in members):
        raise zipfile.BadZipFile("it is a program of TorchScript")
    if sum(member.file_size for member in members) > content.getbuffer().nbytes:
        raise zipfile.BadZipFile("it promises more bytes than it has")
    content.seek(0)


def check_model(state: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless a checkpoint tells what a model is made of: its images, classes, epoch and weights.

    Weights are plain tensors: there are kinds that promise any shape and hold no numbers.
    """
    shape, weights = state.get("shape"), state.get("model")
    counts = [state.get("classes"), state.get("epoch"), *(shape if isinstance(shape, list) else [])]
    if len(counts) != 5 or not all(type(count) is int and 0 <= count < 2**31 for count in counts):
        raise CheckpointError(f"{path} is damaged: it does not tell the images' shape, the classes or the epoch")
    if not isinstance(weights, dict) or not all(map(is_plain, weights, weights.values())):
        raise CheckpointError(f"{path} is damaged: its weights are no numbers by their names")


def is_plain(name: Any, tensor: Any) -> bool:
    """Return whether a weight is a tensor that holds all of its numbers."""
    return (
        isinstance(name, str)
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )
