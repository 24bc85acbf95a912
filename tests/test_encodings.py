"""What aectl reads and writes as text names its encoding, so that files are the same on every machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for name in ("aectl", "hydra_plugins", "lecture") for path in (ROOT / name).rglob("*.py"))
OTHER_OPENS = {"Image", "os", "tarfile", "gzip"}
"""Modules whose `open` is one of bytes."""


def lacks_encoding(call):
    """Return whether a call opens, reads or writes text and names no encoding."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    keywords = {one.arg for one in call.keywords}
    if "encoding" in keywords:
        return False
    if name == "read_text" or name == "write_text":
        return isinstance(function, ast.Attribute)
    if owner == "subprocess":
        return "text" in keywords
    if name != "open" or owner in OTHER_OPENS:
        return False
    words = [*call.args, *(one.value for one in call.keywords if one.arg == "mode")]
    return not any(isinstance(one, ast.Constant) and one.value in ("rb", "wb", "ab", "xb", "r+b") for one in words)


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("p.open()", True),
        ("open('x')", True),
        ("open('x', mode='w')", True),
        ("p.write_text('rb')", True),
        ("p.read_text()", True),
        ("subprocess.run(c, text=True)", True),
        ("p.open('rb')", False),
        ("p.open('w', encoding='utf-8')", False),
        ("Image.open(p)", False),
    ],
)
def test_calls_without_an_encoding_are_seen(code, lacks):
    assert lacks_encoding(ast.parse(code).body[0].value) == lacks


def test_every_text_file_names_its_encoding():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and lacks_encoding(node)
    ]
    assert not found, found
