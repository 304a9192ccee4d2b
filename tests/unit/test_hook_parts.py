"""The parts of a run hook by themselves."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.hook.adopt import Adoption
from pbsdock.hook.agent_link import AgentLink
from pbsdock.hook.streams import Streams
from pbsdock.protocol import wire


def test_a_lost_connection_is_no_longer_watched(tmp_path: Path) -> None:
    """Also one that is found lost while something is told: a closed descriptor would wake the poll again and again."""
    path = str(tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        poller = select.poll()
        agent = AgentLink(path, poller, SimpleNamespace(wake=-1))  # type: ignore[arg-type]
        agent.rejoin(wire.Message("rejoin"))
        peer, _ = listener.accept()
        assert agent.is_open
        peer.close()
        while agent.is_open:
            agent.tell(wire.Message("signal", signal=15))

    assert poller.poll(0) == []
    assert not agent.is_given_up


def _tool(path: Path, log: Path, code: int = 0) -> str:
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> {log}\nexit {code}\n')
    path.chmod(0o755)
    return str(path)


def _reaped(adoption: Adoption) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if adoption.is_due:
            assert adoption.run_next()
        if (status := adoption.reap()) is not None:
            return status
        time.sleep(0.01)
    raise AssertionError("the tools did not end")


@pytest.mark.parametrize("code", [0, 3])
def test_tools_run_in_order(tmp_path: Path, code: int) -> None:
    """A task takes its place first; the status that counts is that of the adoption itself."""
    log = tmp_path / "log"
    track = _tool(tmp_path / "pbs_track", log, code)
    _tool(tmp_path / "pbsdsh", log)
    adoption = Adoption("7.vm", "/hooks/run")
    adoption.plan(wire.Message("started", pbs_track=track, pid=42), "")

    assert _reaped(adoption) == code
    assert adoption.done is (code == 0)
    assert log.read_text() == "pbsdsh -n 0 /hooks/run\npbs_track -j 7.vm -a 42\n"


@pytest.mark.parametrize("fields", [{"pid": 42}, {"pbs_track": "/x/pbs_track"}])
def test_nothing_to_adopt(fields: dict[str, Any]) -> None:
    """Without a tool or a process there is nothing to run."""
    adoption = Adoption("7.vm", "")
    adoption.plan(wire.Message("started", **fields), "")

    assert not adoption.is_due
    assert adoption.reap() is None


def test_a_tool_that_is_not_there() -> None:
    """It is told, and no other is tried."""
    adoption = Adoption("7.vm", "")
    adoption.plan(wire.Message("started", pbs_track="/no/such/tool", pid=42), "")

    assert adoption.run_next() is False
    assert not adoption.is_due


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What os.read finds on standard input, in order; then its end."""
    pieces: list[bytes] = []
    real = os.read
    monkeypatch.setattr("os.read", lambda fd, size: (pieces.pop(0) if pieces else b"") if fd == 0 else real(fd, size))
    return pieces


def _stream(streams: Streams, *, restored: bool | None = None) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    if restored is None:
        streams.open([theirs.detach()])
    else:
        streams.open_again([theirs.detach()], restored=restored)
    return ours


@pytest.mark.parametrize(("restored", "got"), [(False, b"script\n"), (True, b"exit $?\n")])
def test_input_of_the_next_stream(typed: list[bytes], restored: bool, got: bytes) -> None:
    """A new container gets all input again; the old one after an engine's restart only what ends its shell."""
    streams = Streams(select.poll(), tty=False, last_words=b"exit $?\n")
    typed.append(b"script\n")
    with _stream(streams) as engine:
        streams.handle(0)
        streams.handle(0)
        assert (engine.recv(100), engine.recv(100)) == (b"script\n", b"")
        fd = streams._attach.fileno()
    assert streams.handle(fd) is True
    assert not streams.are_open

    with _stream(streams, restored=restored) as engine:
        assert (engine.recv(100), engine.recv(100)) == (got, b"")


def test_long_input_is_not_kept(typed: list[bytes]) -> None:
    """Then the job cannot be started again, and is told so."""
    streams = Streams(select.poll(), tty=False, last_words=b"")
    typed += [b"x" * 65536, b"y"]
    with _stream(streams) as engine:
        streams.handle(0)
        assert streams.sent is not None
        streams.handle(0)
        assert streams.sent is None
        engine.setblocking(False)
