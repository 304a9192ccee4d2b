"""A name that belongs to Torque stays in its room: everything else asks :class:`pbsdock.rm.base.ResourceManager`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIBRARY = ROOT / "lib/pbsdock"
# In any line, comments too; the last in strings of the code alone, since a comment may say what a user does.
ANYWHERE = re.compile(r"\.JB\b|\.SC\b|pbs_track|PBS_")
IN_STRINGS = re.compile(r"\bqsub\b")

ROOM = "rm/torque/"
EXCEPTIONS = {
    "trial/": "stands in for pbs_mom, and so speaks as it does",
    "hook/": "is called by mom with mom's environment, and may import the protocol alone",
    "admin/setup/": "writes mom's configuration and what mom calls",
    "config/sections.py": "documents the site's file, whose admin knows the commands of the site's users",
}


def _excused(name: str) -> str:
    return next((place for place in EXCEPTIONS if name.startswith(place)), "")


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of the code that is not a docstring."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def _found(path: Path) -> list[str]:
    text, name = path.read_text(), path.relative_to(LIBRARY).as_posix()
    found = [
        f"{name}:{number}: {match.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in ANYWHERE.finditer(line)
    ]
    found += [
        f"{name}:{number}: {match.group()}"
        for number, string in _strings(ast.parse(text))
        for match in IN_STRINGS.finditer(string)
    ]
    return found


def _modules() -> list[Path]:
    return [path for path in sorted(LIBRARY.rglob("*.py")) if not path.is_relative_to(LIBRARY / ROOM)]


def test_torques_names_stay_in_their_room() -> None:
    """Whoever needs one elsewhere asks the manager for it, or has a reason in the list above."""
    strays = [
        stray for path in _modules() if not _excused(path.relative_to(LIBRARY).as_posix()) for stray in _found(path)
    ]
    assert strays == []


@pytest.mark.parametrize("excused", EXCEPTIONS)
def test_every_exception_is_needed(excused: str) -> None:
    """One that has no such name any more is taken off the list."""
    paths = [path for path in _modules() if path.relative_to(LIBRARY).as_posix().startswith(excused)]
    assert any(_found(path) for path in paths)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_nobody_else_imports_from_the_room() -> None:
    """Only the one place that chooses a manager, and the stand-in for pbs_mom."""
    strays = [
        f"{path.relative_to(LIBRARY).as_posix()}:{number}: {name}"
        for path in _modules()
        if not path.is_relative_to(LIBRARY / "trial") and path != LIBRARY / "rm/choose.py"
        for number, name in _imports(path)
        if name.startswith("pbsdock.rm.torque")
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("# a comment on 7.JB\n", [".JB"]),
        ('x = f"{prefix}.SC"\n', [".SC"]),
        ('def f(): pass\nf(pbs_track=1)\ny = env["PBS_NP"]\n', ["pbs_track", "PBS_"]),
        ('"""What qsub does."""\n# and qsub -I\nx = 1\n', []),
        ('def f():\n    """With qsub."""\n    return f"ask with {1} qsub -l"\n', ["qsub"]),
        ("x = '.JBX #PBS -S a.SCSI'\n", []),
    ],
)
def test_what_counts_as_a_name(source: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search itself finds what it is meant to find."""
    monkeypatch.setattr("tests.unit.test_rooms.LIBRARY", tmp_path)
    path = tmp_path / "x.py"
    path.write_text(source)
    assert [stray.rsplit(" ", 1)[1] for stray in _found(path)] == names
