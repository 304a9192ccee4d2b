"""docs/why.md has every field and every code that there is, and no other."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import cause
from pbsdock.core.facts import Exit, Level, Usage
from pbsdock.core.plan import Limits
from pbsdock.core.record import Refused, State
from pbsdock.core.story import to_json
from pbsdock.core.trail import Decision, Fault, Phase
from pbsdock.protocol import wire
from tests.conftest import ROOT
from tests.unit.fakes import ask, fake_node, known
from tests.unit.stories import story

MANUAL = (ROOT / "docs/why.md").read_text()


def _rows() -> dict[str, str]:
    """Field -> the text of its row."""
    table = MANUAL.split("## The object of `--json`")[1]
    found: dict[str, str] = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            names, _, text = line.strip("| ").partition(" | ")
            found |= dict.fromkeys(re.findall(r"`(\w+)`", names), text)
    return found


def _told(tmp_path: Path) -> dict[str, Any]:
    node = fake_node(tmp_path)
    known(node, State.RUNNING, job_id="7.vm", started_at=1.0)
    (answer,) = ask(node, 0, wire.Message("why", job="7"))
    told: dict[str, Any] = json.loads(answer.text("json"))
    return told


def test_every_field(tmp_path: Path) -> None:
    """As the agent answers."""
    assert set(_rows()) == set(_told(tmp_path))


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("decided", Decision),
        ("phases", Phase),
        ("limits", Limits),
        ("used", Usage),
        ("now", Level),
        ("exit", Exit),
        ("refusal", Refused),
        ("fault", Fault),
    ],
)
def test_every_field_of_a_field(field: str, kind: Any) -> None:
    """By the names of its type."""
    named = set(re.findall(r"`(\w+)`", _rows()[field]))

    assert {each.name for each in fields(kind)} <= named


def test_what_is_kept() -> None:
    """The file has all but what is only said."""
    assert set(_rows()) - set(to_json(story())) == {"cause", "manager", "config", "nodes", "earlier"}


def test_every_code() -> None:
    """Of the module that gives them."""
    tree = ast.parse((ROOT / "lib/pbsdock/agent/cause.py").read_text())
    given = {
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Cause"
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    given |= {"told", "results-kept", *(code for code, _ in cause._TAKEN.values())}
    named = set(re.findall(r"`([a-z-]+)`", MANUAL.split("Codes of `cause`")[1]))

    assert named == given | {"preparing", "ready", "running", "staging"}


def test_every_state() -> None:
    """And the one of a job whose record is gone."""
    assert set(re.findall(r"`([a-z]+)`", _rows()["state"])) == {*(state.value for state in State), "over"}
