"""What the agent answers when a request goes wrong in the middle. Real sockets; the nodes are fakes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock import wire
from pbsdock.agent import server
from pbsdock.agent.manners import Manners
from pbsdock.agent.server import Connection, Peer
from pbsdock.config import AgentConfig, InteractiveConfig, PrologueConfig

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
        name="n1", boot="b", owner="n1", emit=lambda event, *_, **fields: events.append(f"{event} {fields.get('where')}"),
        config=SimpleNamespace(agent=AgentConfig(), prologue=PrologueConfig(), interactive=InteractiveConfig(allow=False)),
        job_lock=lambda *_: nullcontext(), running={}, staging={}, **parts,
    )  # fmt: skip


def _ask(pair: tuple[socket.socket, socket.socket], node: Any, uid: int, message: wire.Message) -> list[wire.Message]:
    """What a client of that user gets for a message, and for a ping after it; none if it is hung up on."""
    ours, theirs = pair
    peer = Peer(ours)
    peer.uid = uid
    served = Connection(node, ours, peer, Manners(32, 1 << 20))

    def serve() -> None:
        with ours:
            served.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    found: list[wire.Message] = []
    for one in (message, wire.Message("ping")):
        theirs.sendall(wire.encode(one))
        found.append(wire.decode(theirs.recv(4096)[4:]))
    theirs.close()
    thread.join(5)
    return found


@pytest.mark.parametrize(
    ("uid", "message"),
    [
        (0, wire.Message("release", argv=b"7.s")), (0, wire.Message("sweep", argv=b"7.s")),
        (0, wire.Message("list")), (0, wire.Message("reap")),
        (_USER, wire.Message("start", job="7.s")), (_USER, wire.Message("rejoin", job="7.s")),
        (_USER, wire.Message("signal", job="7.s", signal=15)), (_USER, wire.Message("eof", job="7.s")),
        (_USER, wire.Message("adopted", job="7.s", status=0)),
        (_USER, wire.Message("resize", job="7.s", rows=24, columns=80)),
    ],
    ids=lambda one: getattr(one, "op", None),
)  # fmt: skip
def test_every_request_tells_a_full_disk_of_a_fake_node(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, uid: int, message: wire.Message
) -> None:
    """Root's and users': an OSError of ours is not the client's going."""
    monkeypatch.setattr(server, "reconcile", _full)
    events: list[str] = []
    node = _node(events, ledger=SimpleNamespace(for_job=_full, load_all=_full))
    answer, pong = _ask(pair, node, uid, message)

    assert (answer.op, answer.text("code")) == ("fault", "agent-error")
    assert answer.text("sentence") == "the pbsdock agent of n1 could not do this: No space left on device"
    assert pong.op == "pong"
    assert events == [f"agent.error {message.op}"]


def test_a_full_disk_on_demand_is_told_by_a_fake_node(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that cannot be created for a job without a prologue, and no silence that looks like a lost agent."""
    job: Any = SimpleNamespace(
        id=SimpleNamespace(text="7.s", safe="7.s"), uid=_USER, user="u", script_path=None, nodefile=None,
        job_file="7.s.JB",
    )  # fmt: skip
    monkeypatch.setattr("pbsdock.agent.facts.from_job_file", lambda *_: job)
    file: Any = SimpleNamespace(uid=_USER, wrong="")
    events: list[str] = []
    node = _node(
        events, ledger=SimpleNamespace(for_job=lambda _: None, create=_full),
        job_files=SimpleNamespace(find=lambda _: ("7.s.JB", file)), paths=SimpleNamespace(mom_priv=None),
    )  # fmt: skip
    answer, pong = _ask(pair, node, _USER, wire.Message("start", job="7.s", directive="alpine:3"))

    assert (answer.op, answer.text("code")) == ("fault", "agent-error")
    assert "No space left on device" in answer.text("sentence")
    assert pong.op == "pong"
