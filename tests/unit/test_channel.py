"""The agent's ends: of a client's connection, of the engine's streams, and what is known of its threads. Real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import prepare, stage_orders
from pbsdock.agent.channel import Channel, ClientGone
from pbsdock.agent.pulse import Pulse
from pbsdock.agent.runs import JobRun
from pbsdock.agent.streams import Streams
from pbsdock.agent.work import Work
from pbsdock.agent.workers import Worker
from pbsdock.config.tables import parse
from pbsdock.core.record import Record
from pbsdock.core.waiting import hung_up, readable, writable
from pbsdock.policy.explain import Rules
from pbsdock.protocol import wire
from pbsdock.staging.order import Order
from tests.unit.records import fake_jobs

_BIG = wire.Message("notice", sentence=b"x" * 3_000_000)
_PONG = wire.Message("pong")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The agent's end and the client's."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def _record(**fields: Any) -> Record:
    return Record.new(job_id="1.s", safe="1.s", uid=os.getuid(), user="u", node="n", boot_id="b", **fields)


def _fill(end: socket.socket) -> None:
    end.setblocking(False)
    try:
        while True:
            end.send(b"x" * 4096)
    except BlockingIOError:
        pass


# -- channel ----------------------------------------------------------------------------------------------------------


def test_a_full_client_is_dropped_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    """Where nobody may wait: what does not go at once is not sent, and the client is let go."""
    ours, theirs = pair
    channel = Channel(ours)
    _fill(ours)
    began = time.monotonic()
    with pytest.raises(ClientGone):
        channel.send(_PONG)

    assert time.monotonic() - began < 0.5
    with pytest.raises(ClientGone):
        channel.receive(1)
    while theirs.recv(1 << 20):
        pass


def test_a_slow_client_gets_the_whole_message(pair: tuple[socket.socket, socket.socket]) -> None:
    """And another thread, which must not wait meanwhile, drops it."""
    ours, theirs = pair
    channel = Channel(ours)
    sender = threading.Thread(target=lambda: channel.send(_BIG, wait_s=10))
    sender.start()
    got = bytearray()
    while len(got) < 3_000_000:
        got += theirs.recv(1 << 16)
    sender.join(10)
    assert wire.decode(bytes(got[4:])).raw("sentence") == [b"x" * 3_000_000]

    failed = threading.Event()

    def send() -> None:
        try:
            channel.send(_BIG, wait_s=30)
        except ClientGone:
            failed.set()

    threading.Thread(target=send, daemon=True).start()
    time.sleep(0.2)
    began = time.monotonic()
    with pytest.raises(ClientGone):
        channel.send(_PONG)
    assert time.monotonic() - began < 0.5
    assert failed.wait(5)


def test_descriptors_above_1023(pair: tuple[socket.socket, socket.socket]) -> None:
    """poll(2) takes any number."""
    ours, theirs = pair
    high = os.dup(ours.fileno())
    fd = os.dup2(high, 3000)
    try:
        assert not readable(fd, 0)
        assert writable(fd, 0)
        theirs.send(b"x")
        assert readable(fd, 1)
        assert not hung_up(fd)
        theirs.close()
        assert hung_up(fd)
    finally:
        os.close(fd)
        os.close(high)


def test_nothing_of_the_agents_uses_select() -> None:
    """select(2) has no room for descriptors above 1023."""
    library = Path(prepare.__file__).parent.parent

    assert [str(one) for one in library.rglob("*.py") if "select.select(" in one.read_text()] == []


# -- a request that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("a slip"), MemoryError(), SystemExit()])
def test_what_was_begun_is_released_whatever_happens(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Also what nobody has foreseen in mid-prologue; the steps here are fakes."""
    released: list[str] = []
    record = _record()

    def fail(*_arguments: Any) -> None:
        raise error

    plan: Any = SimpleNamespace(to_dict=dict, stores=(), stage_in=(), stage_out=(), image="i", queue="q", network="n")
    monkeypatch.setattr(prepare, "with_cpus_of_its_own", lambda *_: plan)
    monkeypatch.setattr(prepare, "new_record", lambda *_: record)
    monkeypatch.setattr(prepare, "_carry_out", fail)
    monkeypatch.setattr(prepare, "release", lambda node, one, why: released.append(one.incarnation))
    node: Any = SimpleNamespace(
        promised={},
        planned_by={},
        mark=lambda _: None,
        jobs=fake_jobs(),
        emit=lambda *_, **__: None,
        config=parse("[engine]\nfirst_process = false\n"),
        name="n1",
    )
    job: Any = SimpleNamespace(id=SimpleNamespace(text="1.s"))
    why = prepare.Reasons("", Rules(node.config), ())
    asked = prepare.Preparation(job=job, plan=plan, script=b"", why=why, notify=lambda _: None, began=0.0)
    with pytest.raises(type(error)):
        prepare._prepare(node, asked)

    assert released == [record.incarnation]
    assert record.facts.fault is not None
    assert record.facts.fault.code == "agent-error"


def test_a_worker_that_is_stopped_does_not_hold_up_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may stop a process of theirs. A program that does nothing stands here for one that was stopped."""
    monkeypatch.setattr(stage_orders, "_UNDO_S", 0.3)
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(["sleep", "60"], pass_fds=[theirs.fileno()])
    node: Any = SimpleNamespace(spawner=SimpleNamespace(worker=lambda: Worker(ours, os.pidfd_open(process.pid))))
    order = Order(
        direction="undo", uid=1, gid=1, groups=(), mark="m", items=(), stores={}, uploads=(), keep="/k", patience_s=1.0
    )
    began = time.monotonic()
    with pytest.raises(stage_orders.StageFailed, match="killed"):
        stage_orders._obeyed(node, _record(), SimpleNamespace(), order, Work())  # type: ignore[arg-type]

    assert time.monotonic() - began < 10
    assert process.wait(5) == -9


# -- streams ----------------------------------------------------------------------------------------------------------


def _give(streams: Streams, running: JobRun) -> socket.socket:
    """Give it a stream; returns the engine's end."""
    ours, engines = socket.socketpair()
    engines.settimeout(5)
    with streams.giving(running, ours):
        pass
    return engines


def test_one_stream_for_each_run(pair: tuple[socket.socket, socket.socket]) -> None:
    """A new one ends the old one, for everybody who has a copy; a release ends the last."""
    streams, running = Streams(), JobRun(record=_record(), channel=Channel(pair[0]))
    first = _give(streams, running)
    assert not hung_up(first.fileno())
    second = _give(streams, running)
    assert first.recv(1) == b""
    assert not hung_up(second.fileno())
    streams.end(running.record.incarnation)
    assert second.recv(1) == b""


def test_a_stream_that_cannot_be_given_is_ended() -> None:
    """The client went while it was sent."""
    streams, running = Streams(), JobRun(record=_record())
    ours, engines = socket.socketpair()
    with pytest.raises(ClientGone), streams.giving(running, ours):
        raise ClientGone("gone")
    engines.settimeout(5)
    assert engines.recv(1) == b""


def test_streams_nobody_reads_are_ended(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: a run hook may come back."""
    now = [100.0]
    monkeypatch.setattr("pbsdock.agent.streams.time.monotonic", lambda: now[0])
    streams, running = Streams(), JobRun(record=_record(), channel=Channel(pair[0]))
    engines = _give(streams, running)
    for later, channel, is_there in (
        (0, running.channel, 1),
        (60, running.channel, 1),
        (1, None, 1),
        (4, None, 1),
        (2, None, 0),
    ):
        now[0] += later
        running.channel = channel
        streams.look()
        assert hung_up(engines.fileno()) is not bool(is_there)


# -- pulse ------------------------------------------------------------------------------------------------------------


def test_threads_that_hang_or_have_ended() -> None:
    """One that waits for work is well however long it waits; steps are judged one by one."""
    now, go = [0.0], threading.Event()
    pulse = Pulse(lambda: now[0])
    working, next_step, done = threading.Event(), threading.Event(), threading.Event()

    def act() -> None:
        pulse.watch(threading.current_thread())
        with pulse.at_work(10) as begin:
            working.set()
            next_step.wait(5)
            begin()
            done.set()
            go.wait(5)

    thread = threading.Thread(target=act, name="tick", daemon=True)
    thread.start()
    assert working.wait(5)
    now[0] = 9.0
    assert pulse.stuck() == {}
    next_step.set()
    assert done.wait(5)
    now[0] = 18.0
    assert pulse.stuck() == {}
    now[0] = 20.0
    assert pulse.stuck() == {"tick": 11.0}
    go.set()
    thread.join(5)
    assert pulse.stuck() == {"tick": 0.0}
    pulse.forget(thread)
    assert pulse.stuck() == {}
