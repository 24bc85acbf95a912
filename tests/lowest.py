"""Print the oldest versions that pyproject.toml allows, as constraints for pip: what `make test-lowest` installs."""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def dependencies() -> list[str]:
    """Return what pyproject.toml asks for, extras too, but not the tools that only test."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]


def lowest() -> dict[str, str]:
    """Return the lower bound of every dependency that has one."""
    found = (re.match(r"([\w.-]+)>=([\w.]+)", line) for line in dependencies())
    return {match[1]: match[2] for match in found if match}


if __name__ == "__main__":
    for name, version in lowest().items():
        print(f"{name}=={version}")
