"""The run hook against an agent that is made here: what a real one does once in a thousand times."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pbsdock import wire
from tests.conftest import ROOT


@pytest.mark.parametrize(("number", "most_s"), [(signal.SIGTERM, 3.0), (None, 8.0)])
def test_stream_that_never_ends_fake_agent(tmp_path: Path, number: int | None, most_s: float) -> None:
    """The container is over, its stream stays open: a deleted job ends by its signal before mom's kill delay is over."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "agent.sock"))
    listener.listen()
    code = "import sys; from pbsdock.client import hook; hook()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--run-dir", str(tmp_path), "run", "/bin/sh"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT / "lib"), "PBS_JOBID": "7.vm"},
    )  # fmt: skip
    peer, _ = listener.accept()
    peer.recv(65536)
    ours, theirs = socket.socketpair()
    socket.send_fds(peer, [wire.encode(wire.Message("started", pid=0, fds=1))], [theirs.fileno()])
    theirs.close()
    ours.sendall(b"\1\0\0\0" + (6).to_bytes(4, "big") + b"hello\n")
    assert process.stdout is not None
    assert process.stdout.readline() == b"hello\n"
    if number:
        process.send_signal(number)
        peer.recv(65536)
    began = time.monotonic()
    peer.sendall(wire.encode(wire.Message("ended", code=3)))

    assert process.wait(20) == (-number if number else 3)
    assert time.monotonic() - began < most_s
    process.stdout.close()
    for one in (ours, peer, listener):
        one.close()
