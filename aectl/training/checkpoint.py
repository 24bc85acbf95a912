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
        raise CheckpointError(f"no checkpoint {path}")
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint of aectl ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of format {FORMAT}; it may come from a newer aectl")
    return state
