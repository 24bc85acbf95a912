"""Print the oldest versions that pyproject.toml allows, as constraints for pip: what `make test-lowest` installs."""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib


def lowest(project: dict) -> dict[str, str]:
    """Return the lower bound of every dependency, those of extras too; the tools that only test are taken as pinned."""
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]
    found = (re.match(r"([\w.-]+)>=([\w.]+)", line) for line in named)
    return {match[1]: match[2] for match in found if match}


if __name__ == "__main__":
    for name, version in lowest(tomllib.loads(Path("pyproject.toml").read_text())["project"]).items():
        print(f"{name}=={version}")
