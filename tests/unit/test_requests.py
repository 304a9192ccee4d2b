"""What the agent answers when a request goes wrong in the middle. Real sockets; the nodes are fakes."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent.channel import Channel
from pbsdock.agent.jobs import Jobs
from pbsdock.agent.quota import UserQuota
from pbsdock.agent.requests import respond, root
from pbsdock.agent.requests.users import UserRequests
from pbsdock.agent.runs import ExecRun, JobRun, Run
from pbsdock.agent.session import Peer, Session
from pbsdock.agent.start import Admission
from pbsdock.agent.streams import Streams
from pbsdock.config.tables import AgentConfig, Config, InteractiveConfig, PrologueConfig
from pbsdock.core.ledger import Ledger
from pbsdock.core.record import Record, State
from pbsdock.policy.explain import Rules
from pbsdock.protocol import wire
from pbsdock.rm.torque import Torque
from tests.support.torque import job
from tests.unit.records import fake_jobs, record_in

_USER = 1000


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The agent's end and the client's."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def _full(*_arguments: Any, **_options: Any) -> Any:
    raise OSError(28, "No space left on device", "/secret/path")


def _node(events: list[str], **parts: Any) -> Any:
    return SimpleNamespace(
        name="n1",
        boot="b",
        owner="n1",
        emit=lambda event, *_, **fields: events.append(f"{event} {fields.get('where')}"),
        config=SimpleNamespace(
            agent=AgentConfig(), prologue=PrologueConfig(), interactive=InteractiveConfig(allow=False)
        ),
        job_lock=lambda *_: nullcontext(),
        rm=Torque(Path("/none/mom_priv"), "n1"),
        rules=Rules(Config(interactive=InteractiveConfig(allow=False))),
        planned_by={},
        **parts,
    )


def _ask(pair: tuple[socket.socket, socket.socket], node: Any, uid: int, message: wire.Message) -> list[wire.Message]:
    """What a client of that user gets for a message, and for a ping after it; none if it is hung up on."""
    ours, theirs = pair
    peer = Peer(ours)
    peer.uid = uid
    session = Session(node, Channel(ours), peer, UserQuota(32, 1 << 20))
    found: list[wire.Message] = []
    for one in (message, wire.Message("ping")):
        session.handle(one, respond)
        found.append(wire.decode(theirs.recv(4096)[4:]))
    return found


@pytest.mark.parametrize(
    ("uid", "message"),
    [
        (0, wire.Message("release", argv=b"7.s")),
        (0, wire.Message("sweep", argv=b"7.s")),
        (0, wire.Message("list")),
        (0, wire.Message("reap")),
        (_USER, wire.Message("start", job="7.s")),
        (_USER, wire.Message("rejoin", job="7.s")),
        (_USER, wire.Message("signal", job="7.s", signal=15)),
        (_USER, wire.Message("eof", job="7.s")),
        (_USER, wire.Message("over", job="7.s", kind=2, number=0)),
        (_USER, wire.Message("adopted", job="7.s", status=0)),
        (_USER, wire.Message("resize", job="7.s", rows=24, columns=80)),
    ],
    ids=lambda one: getattr(one, "op", None),
)
def test_every_request_tells_a_full_disk_of_a_fake_node(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, uid: int, message: wire.Message
) -> None:
    """Root's and users': an OSError of ours is not the client's going."""
    monkeypatch.setattr(root, "reconcile", _full)
    events: list[str] = []
    node = _node(events, jobs=fake_jobs(for_job=_full, load_all=_full))
    answer, pong = _ask(pair, node, uid, message)

    assert (answer.op, answer.text("code")) == ("fault", "agent-error")
    assert answer.text("sentence") == "the pbsdock agent of n1 could not do this: No space left on device"
    assert pong.op == "pong"
    assert events == [f"agent.error {message.op}"]


def test_a_full_disk_on_demand_is_told_by_a_fake_node(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that cannot be created for a job without a prologue, and no silence that looks like a lost agent."""
    made = job("nodes=1", job_id="7.s", uid=_USER, user="u", script_path=None)
    live = SimpleNamespace(id="7.s", uid=_USER, wrong="", job=lambda _: made)
    events: list[str] = []
    node = _node(
        events,
        jobs=fake_jobs(create=_full),
    )
    monkeypatch.setattr(node.rm, "find", lambda _: live)
    answer, pong = _ask(pair, node, _USER, wire.Message("start", job="7.s", directive="alpine:3"))

    assert (answer.op, answer.text("code")) == ("fault", "agent-error")
    assert "No space left on device" in answer.text("sentence")
    assert pong.op == "pong"


@pytest.mark.parametrize("task", ["", "e" * 64], ids=["job", "exec"])
def test_an_end_before_its_hook_is_joined_is_told_at_once_by_a_fake_node(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """A command that is over while the answer to its start is on the way."""
    record = record_in(State.RUNNING, uid=_USER)
    running = ExecRun(record, name=task) if task else JobRun(record)
    theirs_stream, stream = socket.socketpair()

    def started(*_: Any) -> tuple[Run, Admission]:
        running.end(wire.Message("ended", code=3))
        return running, Admission(stream.detach(), {})

    monkeypatch.setattr(UserRequests, "_started", started)
    monkeypatch.setattr(UserRequests, "_adoption", lambda *_: {})
    node = _node([], jobs=fake_jobs(record), streams=Streams())
    ours, theirs = pair
    peer = Peer(ours)
    peer.uid = _USER
    Session(node, Channel(ours), peer, UserQuota(32, 1 << 20)).handle(wire.Message("start", job="7.s"), respond)
    theirs.settimeout(3)
    data = b""
    while b"ended" not in data:
        more, fds, _, _ = socket.recv_fds(theirs, 4096, 4)
        for one in fds:
            os.close(one)
        assert more
        data += more
    theirs_stream.close()

    assert data.index(b"started") < data.index(b"ended")


@pytest.mark.parametrize("question", ["release", "sweep"])
def test_a_late_release_leaves_a_fast_rerun_alone_on_a_fake_node(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, question: str
) -> None:
    """What was there when the epilogue came is released, and what a prologue makes that had asked before; not what one
    has made of the same job id that asked since."""
    ledger, released = Ledger(tmp_path), list[str]()
    first, rerun, gone, slow = (
        Record.new(job_id="7.s", safe="7.s", uid=_USER, user="u", node="n1", boot_id="b", nonce=one) for one in "abcd"
    )
    slow.note(asked_at=time.monotonic())
    ledger.create(first)
    ledger.create(gone)

    def release(_node: Any, record: Record, why: str) -> bool:
        released.append(record.incarnation)
        return bool(why)

    @contextmanager
    def locked(*_: Any) -> Iterator[None]:
        if not released:
            rerun.note(asked_at=time.monotonic())
            ledger.create(rerun)
            ledger.create(slow)
            ledger.remove(gone)
        yield

    monkeypatch.setattr(root, "release", release)
    monkeypatch.setattr(root.prepare, "release", release)
    node = _node([], jobs=Jobs(ledger, lambda *_, **__: None))
    node.job_lock = locked
    answer, _ = _ask(pair, node, 0, wire.Message(question, argv="7.s"))

    assert answer.op in ("released", "swept")
    assert released == [first.incarnation, slow.incarnation]
