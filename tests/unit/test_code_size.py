"""Modules and classes stay small enough to be read at once, or say why they do not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

MOST_LINES = 400
MOST_METHODS = 15
LIBRARY = ROOT / "lib/pbsdock"


def _has_reason(node: ast.Module | ast.ClassDef, words: str) -> bool:
    return any(line.strip().startswith(words) for line in (ast.get_docstring(node) or "").splitlines())


def problems(source: str) -> list[str]:
    """What in a module's text is too large and does not say why."""
    tree = ast.parse(source)
    found = []
    lines = len(source.splitlines())
    if lines > MOST_LINES and not _has_reason(tree, "Long because"):
        found.append(f"{lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) for child in node.body)
            if methods > MOST_METHODS and not _has_reason(node, "Many methods because"):
                found.append(f"class {node.name} has {methods} methods")
    return found


def test_size() -> None:
    """At most so many lines a module and methods a class, or a line of the docstring that says why."""
    texts = {path.relative_to(LIBRARY): path.read_text(encoding="utf-8") for path in LIBRARY.rglob("*.py")}
    found = {str(name): wrong for name, text in sorted(texts.items()) if (wrong := problems(text))}

    assert found == {}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["401 lines"]),
        ('"""M.\n\nLong because of tests."""\n' + "x = 1\n" * 400, []),
        ("class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(15)), []),
        ("class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(16)), ["class C has 16 methods"]),
        ('class C:\n    """C.\n\n    Many methods because x."""\n' + "    def m(self): ...\n" * 16, []),
    ],
)
def test_what_is_too_large(source: str, wrong: list[str]) -> None:
    """The bounds themselves are allowed; a reason is a line that begins with its words."""
    assert problems(source) == wrong


def test_there_is_something_to_measure() -> None:
    """The library is where it is looked for."""
    assert Path(LIBRARY, "core/plan.py").exists()
