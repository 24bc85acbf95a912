"""What is the same for every model of a data set, computed once and kept: baselines' numbers and arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_dir
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aectl.durable import naming

VERSION = 2
"""To be raised when a baseline is computed differently: what was kept before is then not found."""


class Cache:
    """Results by name in `folder`; without a folder they are computed anew each time.

    A name must tell everything that the result depends on beside the data: `probe-pca-32`, `noisy-gaussian-1-seed-0`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def numbers(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what `compute()` gave when first asked for `name`: numbers, texts, and lists or dicts of them."""
        return self.kept(f"{name}.json", compute, read_json, write_json)

    def arrays(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors that `compute()` gave when first asked for `name`; those kept come on the CPU."""
        return self.kept(f"{name}.safetensors", compute, load_file, write_arrays)

    def kept(self, file: str, compute: Callable[[], Any], read: Callable[..., Any], write: Callable[..., Any]) -> Any:
        """Return what `file` holds; compute and write it if it is not there, or is damaged."""
        if self.folder is None:
            return compute()
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two evaluations at a time share the work: the second waits for what the first is computing.
        with FileLock(f"{path}.lock"):
            try:
                return read(path)
            except (OSError, ValueError, SafetensorError):
                result = compute()
            aside = path.with_name(f".{path.name}")
            with naming(path):
                write(result, aside)
            aside.replace(path)
            return result


def folder_for(digest: str) -> Path:
    """Return the folder for data with this digest, in $AECTL_CACHE or in the user's cache."""
    root = os.environ.get("AECTL_CACHE") or user_cache_dir("aectl", False)
    return Path(root, "baselines", f"{digest}-v{VERSION}")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(content: Any, path: Path) -> None:
    """Write numbers as JSON."""
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_arrays(content: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}, path)
