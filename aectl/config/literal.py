"""Texts that Hydra and OmegaConf read as they stand, such as paths: nothing in them is an interpolation or a quote."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any


def escape_interpolation(text: str) -> str:
    r"""Return a text with `${` escaped for OmegaConf: `dol${x}lar` becomes `dol\${x}lar`."""
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + "\\${", text)


def quote_override(text: str) -> str:
    """Return a text as the value of a Hydra override, in quotes, whatever its characters."""
    inner = re.sub(r"(\\*)'", lambda match: 2 * match[1] + "\\'", escape_interpolation(text))
    inner = re.sub(r"\\+$", lambda match: 2 * match[0], inner)
    return f"'{inner}'"


def unquote_override(value: str) -> str:
    """Return the text that `quoted` was given; of a value in plain quotes what is between them, else the value."""
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or value[-1] != quote:
        return value
    inner = re.sub(r"\\+$", lambda match: match[0][: len(match[0]) // 2], value[1:-1])
    inner = re.sub(rf"(\\*)\\{quote}", lambda match: match[1][: len(match[1]) // 2] + quote, inner)
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", inner)


class PatchedModule:
    """A module of which some names are replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.module, self.names = module, names

    def __getattr__(self, name: str) -> Any:
        return self.names[name] if name in self.names else getattr(self.module, name)


def escape_hydra_folders() -> None:
    """Let Hydra store the working folder and the output folder with `${` escaped; it stores them as they are."""
    from hydra._internal import config_loader_impl
    from hydra.core import utils

    path = PatchedModule(os.path, abspath=lambda path: escape_interpolation(os.path.abspath(path)))  # noqa: PTH100
    setattr(utils, "os", PatchedModule(os, path=path))  # noqa: B010
    setattr(config_loader_impl, "os", PatchedModule(os, getcwd=lambda: escape_interpolation(str(Path.cwd()))))  # noqa: B010
