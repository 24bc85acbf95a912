"""The rooms of the house: imports go one way, and the command line is free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aectl

ROOT = Path(aectl.__file__).parent

LAYERS = {
    "rng": 0,
    "parallel": 0,
    "terminal": 0,
    "terminal_table": 1,
    "machine": 0,
    "durable": 0,
    "file_lock": 0,
    "user_cache": 0,
    "measures": 1,
    "idle_cores": 1,
    "seeds": 0,
    "plot_style": 0,
    "models": 1,
    "data": 1,
    "config": 1,
    "sampling": 2,
    "training": 2,
    "evaluation": 2,
    "figures": 3,
    "run": 2,
    "sweep": 3,
    "page": 2,
    "recipe": 2,
    "room": 2,
    "listing": 3,
    "leaderboard": 4,
    "loading": 3,
    "export": 2,
    "own_images": 4,
    "commands": 5,
    "cli": 6,
}
"""A room may import itself and rooms of a lower number, and a neighbour only as named below."""

NEIGHBOURS = {("data", "models"), ("parallel", "machine"), ("file_lock", "durable")}
"""Data come as a Batch, which is what a model is given; the machine knows what started processes together, `durable`
whether the owner of a lock is alive."""

MODULES = sorted(p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] not in ("__init__.py", "__main__.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = room(path)
    for name in imported(path):
        if name.startswith("aectl.") and (other := name.split(".")[1]) in LAYERS:
            allowed = other == own or LAYERS[other] < LAYERS[own] or (own, other) in NEIGHBOURS
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("models/*.py")), ids=lambda p: p.stem)
def test_models_know_neither_hydra_nor_tensorboard_nor_the_trainer(path):
    assert not [n for n in imported(path) if n.startswith(("hydra", "omegaconf", "tensorboard", "aectl.training"))]


def test_no_config_object_below_the_commands():
    for path in MODULES:
        if room(path) in ("models", "data", "training", "evaluation", "figures", "sampling"):
            assert not [n for n in imported(path) if n.startswith(("hydra", "omegaconf"))], path


def test_nobody_asks_for_a_models_name_or_class():
    """A branch on a kind of model is a sign that the interface lacks something."""
    for path in MODULES:
        if room(path) != "models":
            classes = {n.rsplit(".", 1)[1] for n in imported(path) if n.startswith("aectl.models.") and n[-1].islower()}
            assert not classes & {"Autoencoder", "VAE", "GAN"}, path


def test_the_command_line_is_free_of_torch():
    light = ("cli", "config.schema", "run", "sweep", "listing", "leaderboard", "page")
    names = ", ".join(f"aectl.{name}" for name in light)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
