"""List the values of a key for TAB completion, parsed from source files to avoid importing torch.

A key of a component takes the choices in the annotation of its constructor's parameter, e.g. `Literal["mse", "bce"]` or
an alias of it, as in `check_signature`. Other keys take the names in a registry, e.g. `KINDS` of aectl sample.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

BOOLEAN = ("true", "false")

# Keys of eval and sample whose values are names in a registry: its module, its name, and further values.
REGISTRIES = {
    "kind": ("aectl.sampling", "KINDS", ("all",)),
    "only": ("aectl.evaluation", "EVALUATIONS", ()),
    "export": ("aectl.runs.export", "FORMATS", ()),
    "outliers": ("aectl.data.downloads", "COLLECTIONS", ("auto", "none")),
}


def list_choices(key: str, config: Mapping[str, Any]) -> list[str]:
    """Return the possible values of a dotted key of a plain config; empty if they cannot be listed."""
    parent, _, name = key.rpartition(".")
    node: Any = config
    for part in parent.split(".") if parent else ():
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return []
    if not parent and key in REGISTRIES:
        module, registry, others = REGISTRIES[key]
        return [*others, *registry_names(module, registry)]
    found = parameter_choices(str(node.get("_target_")), name)
    return found or (list(BOOLEAN) if isinstance(node.get(name), bool) else [])


def registry_names(module: str, name: str) -> list[str]:
    """Return the keys of a dict in a module, or the first arguments of the calls in a tuple, see `registry_calls`."""
    value = find_assigned(module, name)
    if isinstance(value, ast.Dict):
        return [str(key.value) for key in value.keys if isinstance(key, ast.Constant)]
    return [words[0] for words in registry_calls(module, name)]


def registry_calls(module: str, name: str) -> list[list[str]]:
    """Return the string arguments of each call in a tuple in a module.

    In a package, the tuples of all its modules are joined, and the calls sorted by their argument `order`.
    """
    tuples = [
        find_assigned(module, name),
        *[find_assigned(f"{module}.{part}", name) for part in submodules_with(module, name)],
    ]
    calls = [one for found in tuples for one in getattr(found, "elts", []) if isinstance(one, ast.Call) and one.args]
    texts = [
        [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        for call in sorted(calls, key=order_of)
    ]
    return [words for words in texts if words]


def submodules_with(package: str, name: str) -> list[str]:
    """Return the modules of a package that assign a tuple to `name`; the others are not parsed."""
    folder = Path(__file__).parents[2].joinpath(*package.split("."))
    return [path.stem for path in sorted(folder.glob("*.py")) if f"\n{name} = (" in path.read_text(encoding="utf-8")]


def order_of(call: ast.Call) -> int:
    """Return the argument `order` of a call, default 0."""
    found = [one.value.value for one in call.keywords if one.arg == "order" and isinstance(one.value, ast.Constant)]
    return found[0] if found and isinstance(found[0], int) else 0


def parameter_choices(target: str, parameter: str) -> list[str]:
    """Return the choices in the annotation of a parameter of `module.Name`; empty if there are none."""
    module, _, name = target.rpartition(".")
    for owner, definition in find_definitions(module, name):
        arguments = definition.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.arg == parameter:
                return list_literals(owner, argument.annotation)
    return []


def find_definitions(module: str, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the module and definition of the function `module.name`, or of the constructor of that class."""
    for node in parse_module(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield module, node
        elif isinstance(node, ast.ClassDef) and node.name == name:
            own = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
            yield from [(module, one) for one in own]
            for base in [] if own else node.bases:
                if isinstance(base, ast.Name):
                    yield from find_definitions(*resolve_import(module, base.id))


def list_literals(module: str, annotation: ast.expr | None) -> list[str]:
    """Return the values that an annotation allows, as typed; empty if it is not a choice."""
    if isinstance(annotation, ast.BinOp):
        return [*list_literals(module, annotation.left), *list_literals(module, annotation.right)]
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") == "Literal":
        values = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return [str(one.value) for one in values if isinstance(one, ast.Constant)]
    if isinstance(annotation, ast.Name) and annotation.id == "bool":
        return list(BOOLEAN)
    if isinstance(annotation, ast.Name):
        home, name = resolve_import(module, annotation.id)
        return list_literals(home, find_assigned(home, name))
    return []


def resolve_import(module: str, name: str) -> tuple[str, str]:
    """Return the module and name that `name` in `module` is imported from; unchanged if it is not imported."""
    for node in parse_module(module).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return node.module, alias.name
    return module, name


def find_assigned(module: str, name: str) -> ast.expr | None:
    """Return the expression that a module assigns to a name, else None."""
    for node in parse_module(module).body:
        names = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(getattr(one, "id", "") == name for one in names):
            return node.value
    return None


@cache
def parse_module(module: str) -> ast.Module:
    """Return the syntax tree of a module of aectl or the working folder; an empty one if it cannot be parsed."""
    root = Path(__file__).parents[2] if module.partition(".")[0] == "aectl" else Path.cwd()
    path = root.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ast.Module([], [])
