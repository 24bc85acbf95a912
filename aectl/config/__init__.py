"""Check configs, and build the objects that they describe."""

from aectl.config.instantiate import (
    ConfigError,
    accepts,
    build,
    check_has_target,
    check_no_settings,
    check_signature,
    check_trusted,
    conf_dir,
    has_target,
    iterate_mappings,
    iterate_targets,
    list_options,
    to_plain,
)

__all__ = [
    "ConfigError",
    "accepts",
    "build",
    "check_has_target",
    "check_no_settings",
    "check_signature",
    "check_trusted",
    "conf_dir",
    "has_target",
    "iterate_mappings",
    "iterate_targets",
    "list_options",
    "to_plain",
]
