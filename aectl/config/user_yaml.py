"""Check the user's config files before Hydra reads them, so that error messages name the file.

A few lines of YAML can expand to more than memory holds (an alias of a list of aliases of a list …), and Hydra copies
configs many times.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from yaml.nodes import MappingNode, Node, ScalarNode

from aectl.config.instantiate import ConfigError, conf_dir

MAX_BYTES = 200_000
MAX_NODES = 20_000
"""Limit of keys, values and lists in one file, with aliases expanded."""
MAX_DEPTH = 40
"""Limit of nested lists and mappings."""


class CheckedConfigSource(FileConfigSource):
    """Hydra's source of config files with checks of files outside aectl's conf/."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Load a config file; raises ConfigError with its path if it is invalid or too large."""
        if Path(self.path) == Path(conf_dir()):
            return super().load_config(config_path)
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            if path.is_file():
                check_config_file(path)
            return super().load_config(config_path)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f", line {mark.line + 1}" if mark else ""
            raise ConfigError(f"{path}{place}: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not UTF-8 text") from error
        except RecursionError as error:
            raise ConfigError(f"{path} is nested too deeply") from error


def check_config_file(path: Path) -> None:
    """Raise ConfigError unless a file is a mapping within the size limits."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(f"{path} is not a config: it has {size:,} bytes, of at most {MAX_BYTES:,}")
    root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    # A file that is empty or has only comments is valid.
    if root is None or (isinstance(root, ScalarNode) and root.value in ("", "null", "~")):
        return
    if not isinstance(root, MappingNode):
        raise ConfigError(f"{path} is not a config: it must be a mapping, key: value")
    count = count_nodes(root, {}, (), path)
    if count > MAX_NODES:
        raise ConfigError(f"{path} expands to {count:.3g} values, of at most {MAX_NODES:,}")


def count_nodes(node: Node, known: dict[int, int], above: tuple[int, ...], path: Path) -> int:
    """Return the number of values in a node with aliases expanded; raises ConfigError if it contains itself."""
    if id(node) in above:
        raise ConfigError(f"{path} has a value that contains itself")
    if len(above) > MAX_DEPTH:
        raise ConfigError(f"{path} is nested too deeply")
    if isinstance(node, ScalarNode):
        return 1
    if id(node) not in known:
        pairs = isinstance(node, MappingNode)
        inner = [one for pair in node.value for one in pair] if pairs else node.value
        known[id(node)] = 1 + sum(count_nodes(one, known, (*above, id(node)), path) for one in inner)
    return known[id(node)]


def install_config_checks() -> None:
    """Make Hydra read config files with `CheckedConfigSource`."""
    # Hydra's own plugins first, because it refuses a second source for files.
    Plugins.instance()
    SourcesRegistry.instance().types[CheckedConfigSource.scheme()] = CheckedConfigSource
