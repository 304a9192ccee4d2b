"""Whose fault a failure is: a table of codes, looks at the node, and counts that outlive the agent."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import health, planning
from pbsdock.agent.attempts import MOST, Attempts
from pbsdock.agent.planning import Planning
from pbsdock.config.tables import parse
from pbsdock.core.errors import Refusal
from tests.conftest import ROOT


def _codes() -> set[str]:
    """The code of every NodeFault that is made anywhere, and of what is made one by its code."""
    codes = set()
    for path in (ROOT / "lib/pbsdock").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "NodeFault":
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    codes.add(str(first.value))
                else:  # handed on: from a fault, or (staging) to a release, which flags nothing
                    assert ast.unparse(first) in ("fault.code", "error.code"), (path, node.lineno)
    return codes | {"disk-full", "registry-busy"}  # pbsdock.engine.pull_errors.classify chooses the kind by the code


def test_every_fault_is_in_the_table() -> None:
    """And nothing else: a code without a look at the node could take it down unconfirmed."""
    assert _codes() == set(health.PROBES)


def test_every_fault_is_in_the_manual() -> None:
    """With what is looked at."""
    manual = (ROOT / "docs/reliability.md").read_text()

    assert {one for one in health.PROBES if f"`{one}`" not in manual} == set()


def _node(directory: Path, **parts: Any) -> Any:
    paths = SimpleNamespace(state_dir=directory / "state", run_dir=directory / "run")
    for one in (paths.state_dir, paths.run_dir):
        one.mkdir(exist_ok=True)
    return SimpleNamespace(name="n1", paths=paths, config=parse(""), **parts)


def test_a_disk_that_can_be_written(tmp_path: Path) -> None:
    """Nothing is left of the look."""
    node = _node(tmp_path)

    assert health.look(node, "record-not-written") == ""
    assert os.listdir(node.paths.state_dir) == []


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    """The node's fault, with the place."""
    node = _node(tmp_path)
    node.paths.run_dir.rmdir()

    said = health.look(node, "pin-failed")

    assert said == f"nothing can be written to {node.paths.run_dir} on n1: No such file or directory"


def test_a_place_that_takes_no_files(tmp_path: Path) -> None:
    """Whatever the kernel says is said."""
    node = _node(tmp_path)
    node.paths.state_dir = Path("/proc/self/fd")
    assert (health.look(node, "record-not-written") or "").startswith("nothing can be written to /proc/self/fd on n1: ")


def test_an_image_too_large_for_a_disk_with_room(tmp_path: Path) -> None:
    """Whoever asks for the largest image there is must not take the node down with it."""
    fine = _node(
        tmp_path,
        engine=SimpleNamespace(probe=lambda: True),
        engine_info=lambda: SimpleNamespace(root_dir=str(tmp_path)),
    )
    away = _node(tmp_path, engine=SimpleNamespace(probe=lambda: False, down_because="x"), engine_info=dict)

    assert health.look(fine, "disk-full") == ""
    assert health.look(away, "disk-full") == "the Docker engine does not answer: x"


@pytest.mark.parametrize(
    ("limits", "wrong"), [("", False), ("reserve_memory='900tb'", True), ("max_memory='7mb'", False)]
)
def test_limits_that_leave_nothing(tmp_path: Path, limits: str, wrong: bool) -> None:
    """The site's own configuration, asked without a job and without an override."""
    node = _node(tmp_path)
    node.config = parse(f"[limits]\n{limits}\n")

    assert bool(health.look(node, "no-memory-for-jobs")) is wrong


def test_codes_of_others(tmp_path: Path) -> None:
    """One of another release has no look; those of the hooks and of an agent that did not start have."""
    node = _node(tmp_path, engine=SimpleNamespace(probe=lambda: True))

    assert health.look(node, "some-code-of-next-year") is None
    assert [health.look(node, one) for one in health.OURS] == ["", "", ""]


# -- attempts ---------------------------------------------------------------------------------------------------------


def test_counts_outlive_the_agent(tmp_path: Path) -> None:
    """By job and reason; forgotten when the job came through."""
    file = tmp_path / "attempts.json"
    assert [Attempts(file).failed("7.vm", "a") for _ in range(3)] == [1, 2, MOST]
    assert Attempts(file).failed("7.vm", "b") == 1
    assert "7.vm" in Attempts(file)
    Attempts(file).forget("7.vm")

    assert "7.vm" not in Attempts(file)
    assert file.stat().st_mode & 0o777 == 0o600


def test_counts_are_bounded(tmp_path: Path) -> None:
    """In number, the oldest first, and in age."""
    file = tmp_path / "attempts.json"
    kept = Attempts(file, most_jobs=3)
    for number in (1, 2, 3, 1, 4):
        kept.failed(f"{number}.vm", "a")
    assert list(json.loads(file.read_text())) == ["3.vm", "1.vm", "4.vm"]
    data = json.loads(file.read_text())
    data["3.vm"][0] -= 86401
    file.write_text(json.dumps(data))

    assert Attempts(file, most_jobs=3).failed("5.vm", "a") == 1
    assert "3.vm" not in json.loads(file.read_text())


@pytest.mark.parametrize("text", ["", "[]", "{", '{"7.vm": 3}', '{"7.vm": [1, {"a": "x"}]}', "[" * 100000, "\xff"])
def test_a_broken_file_is_no_obstacle(tmp_path: Path, text: str) -> None:
    """It begins anew; nor is one that cannot be written."""
    (tmp_path / "attempts.json").write_text(text, encoding="latin-1")

    assert Attempts(tmp_path / "attempts.json").failed("7.vm", "a") == 1
    assert Attempts(tmp_path / "none/attempts.json").failed("7.vm", "a") == 1


# -- planning ---------------------------------------------------------------------------------------------------------


def test_planning_time_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has spent it is refused until it refills; others are not."""
    now, cpu = [100.0], [0.0]
    monkeypatch.setattr(planning.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(planning.time, "thread_time", lambda: cpu[0])
    budget = Planning(budget_s=10.0, per_s=0.5)
    with budget.turn(2001, "alice"):
        cpu[0] += 12.0
    with pytest.raises(Refusal) as caught, budget.turn(2001, "alice"):
        raise AssertionError("not reached")
    with budget.turn(2002, "bob"):
        pass
    now[0] += 5.0
    with budget.turn(2001, "alice"):
        pass

    assert caught.value.code == "planning-time"
    assert caught.value.sentence == (
        "the #DOCKER lines of alice's jobs have taken more than 10 s of this node's processor to read; submit the job again"
        " in 5 s, or with fewer or shorter lines"
    )


def test_planning_time_is_charged_to_refusals_too() -> None:
    """Otherwise the most expensive directives, those that are wrong, were free."""
    budget = Planning(budget_s=0.001, per_s=0.0001)
    with pytest.raises(ZeroDivisionError), budget.turn(1, "a"):
        _ = sum(range(1_000_000)) // 0
    with pytest.raises(Refusal), budget.turn(1, "a"):
        pass
