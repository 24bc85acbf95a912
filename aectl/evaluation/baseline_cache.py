"""Cache of results that do not depend on the model: numbers and arrays of baselines, by data set."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aectl.system.file_lock import FileLock
from aectl.system.user_cache import NoHomeError, baseline_folder

log = logging.getLogger("aectl")

VERSION = 3
"""Increase it when a baseline is computed differently, so that earlier results are not used."""


class Cache:
    """Results by name in `folder`; without a folder nothing is cached.

    A name must identify everything that the result depends on other than the data, e.g. `noisy-gaussian-1-seed-0`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def numbers(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return the cached result of `compute()`: numbers, texts, and lists or dicts of them."""
        return self.load_or_compute(f"{name}.json", compute, read_json, write_json)

    def arrays(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the cached tensors of `compute()`; those read from a file are on the CPU."""
        return self.load_or_compute(f"{name}.safetensors", compute, load_file, write_arrays)

    def load_or_compute(
        self, file: str, compute: Callable[[], Any], read: Callable[..., Any], write: Callable[..., Any]
    ) -> Any:
        """Return the content of `file`; compute and write it if the file is missing or damaged."""
        if self.folder is None:
            return compute()
        path = self.folder / file
        with contextlib.suppress(*DAMAGE):
            return read(path)
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Of two evaluations that need a result, the second waits until the first has computed it.
                lock = FileLock(f"{path}.lock").hold(purpose=f"computes the baseline {path.stem}")
                stack.enter_context(lock)
            except OSError as error:
                note_unwritable(self.folder, error)
                return compute()
            with contextlib.suppress(*DAMAGE):
                return read(path)
            result = compute()
            aside = path.with_name(f".{path.name}")
            try:
                write(result, aside)
                aside.replace(path)
            except (OSError, SafetensorError) as error:
                note_unwritable(self.folder, error)
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)
            return result


DAMAGE = (OSError, ValueError, SafetensorError)
"""Errors of reading a missing or damaged file."""

NOTED: set[str] = set()


def note_unwritable(folder: Path, error: Exception) -> None:
    """Warn once that the cache cannot be written, and name the variable that sets another folder."""
    if "unwritable" not in NOTED:
        NOTED.add("unwritable")
        reason = getattr(error, "strerror", None) or error
        log.warning("baselines are not cached, %s cannot be written (%s): set AECTL_CACHE=DIR", folder, reason)


def cache_folder(digest: str) -> Path | None:
    """Return the cache folder for data with this digest; None without a home folder if AECTL_CACHE is not set."""
    try:
        return baseline_folder() / "baselines" / f"{digest}-v{VERSION}"
    except NoHomeError as error:
        note_unwritable(Path("~"), error)
        return None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(content: Any, path: Path) -> None:
    """Write numbers as JSON."""
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_arrays(content: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}, path)
