"""The layers of the package: imports go one way, and the command line does not import torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import aectl

ROOT = Path(aectl.__file__).parent

LAYERS = [
    {"rng", "metric", "system"},
    {"parallel", "config"},
    {"models"},
    {"data"},
    {"densities"},
    {"sampling", "training"},
    {"runs", "figures"},
    {"evaluation", "leaderboard", "html_report", "tensorboard"},
    {"sweep"},
    {"commands"},
    {"cli"},
]
"""A package imports from those above it in this list; neighbours in one set do not know each other."""
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
AT_ROOT = {"__init__.py", "__main__.py", "metric.py", "rng.py", "py.typed"}

MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem in ("metric", "rng"))


@cache
def imports_of(path: Path) -> dict[str, set[str]]:
    """Return the names that a module imports from others, by the dotted name of the module."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set())
    return found


def modules_of(path: Path) -> set[str]:
    """Return the dotted names of all modules that a module may import."""
    found = imports_of(path)
    return set(found) | {f"{module}.{name}" for module, names in found.items() for name in names}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_the_root_holds_packages():
    assert {path.name for path in ROOT.iterdir() if path.is_file()} == AT_ROOT
    assert {path.parent.name for path in ROOT.glob("*/*.py")} == LEVEL.keys() - {"metric", "rng"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = package_of(path)
    for name in modules_of(path):
        other = name.split(".")[1] if name.startswith("aectl.") else own
        if other in LEVEL:
            assert other == own or LEVEL[other] < LEVEL[own], f"{path.relative_to(ROOT)} imports {name}"


def test_no_module_imports_itself_through_others():
    """Imports at the top of files, those for type checkers included, form no circle."""
    dotted = {".".join(("aectl", *path.relative_to(ROOT).with_suffix("").parts)): path for path in MODULES}
    edges = {name: {other for other in modules_of(path) if other in dotted} for name, path in dotted.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for other in edges[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*.py")), ids=lambda path: path.stem)
def test_models_know_neither_hydra_nor_tensorboard_nor_the_trainer(path):
    unwanted = ("hydra", "omegaconf", "tensorboard", "aectl.training")
    assert not [name for name in modules_of(path) if name.startswith(unwanted)]


def test_no_config_object_below_the_commands():
    for path in MODULES:
        if package_of(path) in ("models", "data", "training", "evaluation", "figures", "sampling"):
            assert not [name for name in modules_of(path) if name.startswith(("hydra", "omegaconf"))], path


@cache
def families() -> set[str]:
    """Return the names of all model classes and of the files that define them, but for `base` and `networks`."""
    shared = {"base", "networks", "penalty", "partition", "__init__"}
    files = [path for path in ROOT.glob("models/*.py") if path.stem not in shared]
    classes = {
        node.name
        for path in files
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    return classes | {path.stem for path in files}


def model_names_in(source: str) -> set[str]:
    """Return the names of models and of their classes that a module imports, compares with or branches on."""
    found, models = set(), families()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aectl.models"):
            found |= {node.module.rpartition(".")[2], *(alias.name for alias in node.names)} & models
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            sides += [one for side in sides if isinstance(side, (ast.Tuple, ast.List, ast.Set)) for one in side.elts]
            found |= {one.value for one in sides if isinstance(one, ast.Constant)} & models
        elif isinstance(node, ast.match_case):
            found |= {one.value for one in ast.walk(node.pattern) if isinstance(one, ast.Constant)} & models
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_asks_for_a_models_name_or_class(path):
    """A branch on a kind of model is a sign that the interface lacks something."""
    if package_of(path) != "models" and path.name != "judge.py":  # the judge is a classifier
        assert not model_names_in(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "from aectl.models.vae import VAE",
        "from aectl.models import gan",
        "from aectl.models.gan import GAN as Adversarial",
        "if choice == 'vae': pass",
        "if type(model).__name__ in ('GAN', 'VAE'): pass",
        "match kind:\n    case 'rbm': pass",
    ],
)
def test_the_guard_sees_a_models_name_or_class(source):
    assert model_names_in(source)


def test_init_files_only_reexport():
    for path in ROOT.glob("*/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        rest = [node for node in body if not isinstance(node, (ast.Expr, ast.ImportFrom, ast.Assign))]
        assert not rest, path


def test_the_command_line_is_free_of_torch():
    light = (
        "cli.main",
        "config.schema",
        "runs.run",
        "runs.listing",
        "sweep",
        "leaderboard",
        "html_report.render",
        "figures.style",
        "sweep.plots",
    )
    names = ", ".join(f"aectl.{name}" for name in light)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
