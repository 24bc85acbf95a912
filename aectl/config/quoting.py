"""Escape and quote texts such as paths, so that Hydra and OmegaConf read them literally."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any


def escape_interpolation(text: str) -> str:
    r"""Escape `${` for OmegaConf: `dol${x}lar` becomes `dol\${x}lar`."""
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", text)


def quote_override(text: str) -> str:
    """Return a text as the quoted value of a Hydra override; all characters are allowed."""
    inner = re.sub(r"(\\*)'", lambda match: 2 * match[1] + "\\'", escape_interpolation(text))
    inner = re.sub(r"\\+$", lambda match: 2 * match[0], inner)
    return f"'{inner}'"


def unquote_override(value: str) -> str:
    """Undo `quote_override`. Other quoted values lose their quotes; unquoted values are returned unchanged."""
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or value[-1] != quote:
        return value
    inner = re.sub(r"\\+$", lambda match: match[0][: len(match[0]) // 2], value[1:-1])
    inner = re.sub(rf"(\\*)\\{quote}", lambda match: match[1][: len(match[1]) // 2] + quote, inner)
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", inner)


class PatchedModule:
    """Proxy of a module with some names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.module, self.names = module, names

    def __getattr__(self, name: str) -> Any:
        return self.names[name] if name in self.names else getattr(self.module, name)


def escape_hydra_folders() -> None:
    """Make Hydra escape `${` in the working and output folders that it stores."""
    from hydra._internal import config_loader_impl
    from hydra.core import utils

    path = PatchedModule(os.path, abspath=lambda path: escape_interpolation(os.path.abspath(path)))  # noqa: PTH100
    setattr(utils, "os", PatchedModule(os, path=path))  # noqa: B010
    setattr(config_loader_impl, "os", PatchedModule(os, getcwd=lambda: escape_interpolation(str(Path.cwd()))))  # noqa: B010
