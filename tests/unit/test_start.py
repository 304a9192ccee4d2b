"""A start that fails leaves nothing behind; the engine, a fake, starts the command and fails where the test says so."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import attached, late_grant, start
from pbsdock.agent.jobs import Jobs
from pbsdock.agent.node import Node
from pbsdock.config.tables import parse
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.ledger import Ledger
from pbsdock.core.record import Record, State
from pbsdock.engine.base import ContainerState, EngineError
from pbsdock.host.process import Caller
from pbsdock.protocol import wire
from tests.support.torque import WORDS
from tests.unit.records import record_in
from tests.unit.test_policy import _plan

_AWAY = NodeFault("engine-unreachable", "the Docker engine does not answer")


class FakeEngine:
    """Containers by name; a call that fails has done its work all the same, as far as it has any."""

    def __init__(self, fails: str, error: BaseException) -> None:
        self.fails = fails
        self.error = error
        self.containers: set[str] = set()
        self.streams: list[socket.socket] = []

    def may_fail(self, call: str) -> None:
        if call == self.fails:
            raise self.error

    def create(self, _body: Any, name: str) -> str:
        self.containers.add(name)
        self.may_fail("create")
        return name

    def attach(self, _name: str) -> socket.socket:
        self.may_fail("attach")
        ours, engines = socket.socketpair()
        engines.settimeout(5)
        self.streams.append(engines)
        return ours

    def start(self, _name: str) -> None:
        self.may_fail("start")

    def inspect(self, _name: str) -> ContainerState:
        self.may_fail("inspect")
        return ContainerState()

    def remove(self, name: str) -> bool:
        self.may_fail("remove")
        self.containers.discard(name)
        return True


@pytest.fixture
def record() -> Record:
    found = record_in(State.READY, plan=_plan("alpine:3"))
    found.container_name, found.image_id = "pbsdock-7", "sha256:1"
    return found


def _begin(
    engine: FakeEngine, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[str]
) -> Any:
    monkeypatch.setattr(start, "limits_of", lambda _: {})
    monkeypatch.setattr(attached, "pinned", lambda *_: nullcontext([]))
    monkeypatch.setattr(attached, "deliver", lambda *_: engine.may_fail("deliver"))
    monkeypatch.setattr(late_grant, "apply", lambda *_: None)  # see test_late_grant.py
    jobs = Jobs(Ledger(tmp_path), lambda event, *_, **__: events.append(event))
    jobs.create(record)
    save = jobs.save
    monkeypatch.setattr(jobs, "save", lambda record, durable: (engine.may_fail("save"), save(record, durable=durable)))
    node: Any = SimpleNamespace(
        name="n1",
        engine=engine,
        jobs=jobs,
        rm=SimpleNamespace(shell_chosen=lambda *_: False, words=WORDS),
        paths=SimpleNamespace(pins=tmp_path),
        labels=lambda _: {},
        config=parse(""),
        cgroups=SimpleNamespace(cgroup_parent=lambda _: "/c"),
        emit=lambda event, *_, **__: events.append(event),
        remove_container=lambda name, within_s: Node.remove_container(node, name, within_s),
    )
    start.start_job(node, record, wire.Message("start", argv="/bin/sh", cwd="/"), Caller(1, 1, 1))
    return node


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        ("create", _AWAY),
        ("attach", _AWAY),
        ("attach", EngineError(500, "no")),
        ("deliver", NodeFault("x", "no")),
        ("deliver", Refusal("x", "no")),
        ("deliver", TypeError("a slip")),
        ("start", _AWAY),
        ("start", EngineError(500, "no")),
        ("inspect", _AWAY),
        ("save", OSError(28, "No space left on device")),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_a_start_that_fails_leaves_nothing_at_a_fake_engine(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, error: BaseException
) -> None:
    """Wherever it fails: no container, no open stream, and the job as ready as before."""
    engine, events = FakeEngine(fails, error), list[str]()
    with pytest.raises((NodeFault, Refusal, TypeError)):
        _begin(engine, record, tmp_path, monkeypatch, events)

    assert engine.containers == set()
    assert [one.recv(1) for one in engine.streams] == [b""] * len(engine.streams)
    assert (record.state, record.container_id, record.facts.started_at) == ("ready", None, None)
    assert events == []


def test_a_start_at_a_fake_engine_that_then_cannot_remove_keeps_its_own_reason(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is told, for the release to try again; the job is told why it was not started."""
    engine, events = FakeEngine("start", _AWAY), list[str]()
    monkeypatch.setattr(engine, "remove", lambda _: engine.may_fail("start" if engine.containers else "") or True)
    with pytest.raises(NodeFault, match="does not answer"):
        _begin(engine, record, tmp_path, monkeypatch, events)

    assert events == ["release.failed"]


def test_a_start_at_a_fake_engine_is_written_down(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others are compared with."""
    engine, events = FakeEngine("", _AWAY), list[str]()
    node = _begin(engine, record, tmp_path, monkeypatch, events)

    assert engine.containers == {"pbsdock-7"}
    assert (record.state, record.container_id) == ("running", "pbsdock-7")
    assert ([run.key for run in node.jobs.runs()], events) == ([record.incarnation], ["job.started"])
