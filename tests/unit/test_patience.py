"""How long mom's hooks wait for the agent: as long as it is at work. The agents here are fakes, but for one request."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.agent import session as sessions
from pbsdock.agent.channel import Channel
from pbsdock.agent.quota import UserQuota
from pbsdock.agent.requests import respond, root
from pbsdock.agent.requests.root import RootRequests
from pbsdock.agent.session import Peer, Session
from pbsdock.hook import client
from pbsdock.protocol import wire
from tests.conftest import ROOT


@contextmanager
def _slow_agent(run_dir: Path, notices: int) -> Iterator[list[bytes]]:
    """Gives a sign of life every half second, so many times, and then an answer; yields what it is asked."""
    asked: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(run_dir / "agent.sock"))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(4096))
                try:
                    for _ in range(notices):
                        time.sleep(0.5)
                        connection.sendall(wire.encode(wire.Message("notice", sentence="")))
                    connection.sendall(wire.encode(wire.Message("released", clean=1)))
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield asked
    finally:
        listener.close()


def test_the_client_waits_as_long_as_a_fake_agent_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its patience is for silence, and a sign of life is nothing to be printed."""
    printed = io.BytesIO()
    monkeypatch.setattr(os, "write", lambda _fd, data: printed.write(data))
    with _slow_agent(tmp_path, 4) as asked:
        answer = client._converse(str(tmp_path), "", wire.Message("release", argv="7.s"), 1.2)

    assert (answer.op, len(asked)) == ("released", 1)
    assert printed.getvalue() == b""


def test_the_perl_client_waits_as_long_as_a_fake_agent_is_at_work(tmp_path: Path) -> None:
    """The same, with seconds in place of minutes."""
    script = tmp_path / "ask"
    script.write_text((ROOT / "hooks/ask").read_text().replace("alarm 300", "alarm 2"))
    with _slow_agent(tmp_path, 6) as asked:
        done = subprocess.run(
            ["perl", script, tmp_path, "release", "7.s"], capture_output=True, timeout=20, check=False
        )

    assert (done.returncode, done.stderr, len(asked)) == (0, b"", 1)


@pytest.mark.parametrize("question", ["release", "prepare"])
def test_the_agent_gives_signs_of_life_to_root_hooks_on_a_fake_node(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """While results are staged out, or an image is pulled."""
    monkeypatch.setattr(sessions, "_ALIVE_S", 0.1)

    def slow(*_: Any) -> None:
        time.sleep(0.55)

    monkeypatch.setattr(root.prepare, "from_prologue", slow)
    monkeypatch.setattr(RootRequests, "_release_now", slow)
    node: Any = SimpleNamespace()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session = Session(node, Channel(ours), Peer(ours), UserQuota(32, 1 << 20))
        session.handle(wire.Message(question, argv="7.s"), respond)
        theirs.settimeout(5)
        said = theirs.recv(4096)

    assert 3 <= said.count(b"notice") <= 6
    assert b"pbsdock" not in said
