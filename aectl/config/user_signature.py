"""Sign what this user typed, to distinguish it from the contents of an untrusted folder.

A key of random bytes is stored in the user's data folder. A value with a signature by that key was typed or accepted by
this user. The author of a run folder does not have the key and cannot forge one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

import platformdirs

KEY_BYTES = 32


def key_path() -> Path:
    """Return the path of the user's key."""
    return Path(platformdirs.user_data_dir("aectl", False), "signature.key")


def read_key() -> bytes | None:
    """Return the user's key, created on first use; None if it cannot be stored."""
    path = key_path()
    try:
        if not path.exists():
            create_key(path)
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def create_key(path: Path) -> None:
    """Write a new key that only the user can read; if several processes try, one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            # Unlike a rename, a link does not replace a key from another process.
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def sign(*content: Any) -> str | None:
    """Return the signature of JSON values, None if there is no key."""
    key = read_key()
    if key is None:
        return None
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def is_signed(signature: Any, *content: Any) -> bool:
    """Return whether `signature` is this user's signature of the values."""
    expected = sign(*content) if isinstance(signature, str) else None
    # As bytes, because compare_digest only accepts ASCII text.
    return expected is not None and hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
