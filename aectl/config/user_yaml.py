"""Config files that are not ours: looked at before Hydra reads them, so that one that is none is told by its name.

YAML lets a few lines stand for more than memory holds (an alias of a list of aliases of a list …), and Hydra copies
what it reads again and again.
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
"""Keys, values and lists of one file, aliases counted as often as they stand for something."""
MAX_DEPTH = 40
"""Lists and mappings within one another."""


class CheckedConfigSource(FileConfigSource):
    """Hydra's way to config files, with a look at those that are not ours."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Return what a file says; raises ConfigError, naming it, if it is no config or stands for far too much."""
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
            raise ConfigError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is no text in UTF-8") from error
        except RecursionError as error:
            raise ConfigError(f"{path} is nested too deeply") from error


def check_config_file(path: Path) -> None:
    """Raise ConfigError unless a file is a mapping of a size that can be worked with."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(f"{path} is no config: it has {size:,} bytes, of at most {MAX_BYTES:,}")
    root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    # An empty file, or one of comments alone, says nothing, and may.
    if root is None or (isinstance(root, ScalarNode) and root.value in ("", "null", "~")):
        return
    if not isinstance(root, MappingNode):
        raise ConfigError(f"{path} is no config: it must be a mapping, key: value")
    count = count_nodes(root, {}, (), path)
    if count > MAX_NODES:
        raise ConfigError(f"{path} stands for {count:.3g} values, of at most {MAX_NODES:,}")


def count_nodes(node: Node, known: dict[int, int], above: tuple[int, ...], path: Path) -> int:
    """Return how many values a node stands for, those of aliases counted anew; raises ConfigError if it has no end."""
    if id(node) in above:
        raise ConfigError(f"{path} has a value that is a part of itself")
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
    """Let Hydra read config files by `Files`."""
    # Its own plugins first: of two ways to files it refuses the second.
    Plugins.instance()
    SourcesRegistry.instance().types[CheckedConfigSource.scheme()] = CheckedConfigSource
