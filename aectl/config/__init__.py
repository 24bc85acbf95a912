"""From YAML files and typed overrides to checked configs and the objects that they describe."""

from aectl.config.instantiate import (
    ConfigError,
    accepts,
    build,
    check_empty,
    check_named,
    check_signature,
    check_trusted,
    conf_dir,
    has_target,
    mappings,
    options,
    targets,
    to_plain,
)

__all__ = [
    "ConfigError",
    "accepts",
    "build",
    "check_empty",
    "check_named",
    "check_signature",
    "check_trusted",
    "conf_dir",
    "has_target",
    "mappings",
    "options",
    "targets",
    "to_plain",
]
