"""The parts of a run hook by themselves."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path
from types import SimpleNamespace

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
    adoption.plan(track, 42, "")

    assert _reaped(adoption) == code
    assert adoption.done is (code == 0)
    assert log.read_text() == "pbsdsh -n 0 /hooks/run\npbs_track -j 7.vm -a 42\n"


@pytest.mark.parametrize(("tool", "pid"), [("", 42), ("/x/pbs_track", 0)])
def test_nothing_to_adopt(tool: str, pid: int) -> None:
    """Without a tool or a process there is nothing to run."""
    adoption = Adoption("7.vm", "")
    adoption.plan(tool, pid, "")

    assert not adoption.is_due
    assert adoption.reap() is None


def test_a_tool_that_is_not_there() -> None:
    """It is told, and no other is tried."""
    adoption = Adoption("7.vm", "")
    adoption.plan("/no/such/tool", 42, "")

    assert adoption.run_next() is False
    assert not adoption.is_due


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What os.read finds on standard input, in order; then its end."""
    pieces: list[bytes] = []
    real = os.read
    monkeypatch.setattr("os.read", lambda fd, size: (pieces.pop(0) if pieces else b"") if fd == 0 else real(fd, size))
    return pieces


def test_input_goes_to_the_engines_stream_and_ends_it(typed: list[bytes]) -> None:
    """What is typed, then the end of it; the stream's own end is told once."""
    poller = select.poll()
    streams = Streams(poller, tty=False)
    typed.append(b"script\n")
    engine, theirs = socket.socketpair()
    engine.settimeout(10)
    fd = theirs.detach()
    extra = os.dup(0)
    with engine:
        streams.open([fd, extra])
        streams.handle(0)
        streams.handle(0)
        assert (engine.recv(100), engine.recv(100)) == (b"script\n", b"")
        assert streams.are_open
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(extra)

    assert streams.handle(fd) is True
    assert not streams.are_open
    assert streams.handle(fd) is False
    assert poller.poll(0) == []


def test_an_agent_that_is_back_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago it was lost; one that stays away for ten minutes is."""
    path = str(tmp_path / "agent.sock")
    now = [1000.0]
    monkeypatch.setattr("pbsdock.hook.agent_link.time.monotonic", lambda: now[0])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        agent = AgentLink(path, select.poll(), SimpleNamespace(wake=-1))  # type: ignore[arg-type]
        agent.rejoin(wire.Message("rejoin"))
        listener.accept()[0].close()
        assert agent.receive() == []
        now[0] += 599
        assert (agent.is_open, agent.is_given_up) == (False, False)
        now[0] += 2
        assert agent.is_given_up
        agent.rejoin(wire.Message("rejoin"))
        assert (agent.is_open, agent.is_given_up) == (True, False)
