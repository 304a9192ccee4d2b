"""The run hook against an agent that is made here: what a real one does once in a thousand times."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pbsdock.protocol import wire
from tests.conftest import ROOT, wait_until


@dataclass
class Hook:
    """A run hook and the agent's end of its connection."""

    process: subprocess.Popen[bytes]
    peer: socket.socket

    def stream(self, message: wire.Message) -> socket.socket:
        """Hand over a stream; returns the engine's end."""
        ours, theirs = socket.socketpair()
        socket.send_fds(self.peer, [wire.encode(message)], [theirs.fileno()])
        theirs.close()
        return ours


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[Hook]:
    """One that has asked for its container."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "agent.sock"))
    listener.listen()
    code = "import sys; from pbsdock.hook.client import hook; hook()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--run-dir", str(tmp_path), "run", "/bin/sh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib"), "PBS_JOBID": "7.vm"},
    )
    peer, _ = listener.accept()
    peer.recv(65536)
    yield Hook(process, peer)
    process.kill()
    process.communicate()
    peer.close()
    listener.close()


@pytest.mark.parametrize(("number", "most_s"), [(signal.SIGTERM, 3.0), (None, 8.0)])
def test_stream_that_never_ends_fake_agent(hook: Hook, number: int | None, most_s: float) -> None:
    """The container is over, its stream stays open: a deleted job ends by its signal before mom's kill delay is over."""
    process = hook.process
    ours = hook.stream(wire.Message("started", pid=0, fds=1))
    ours.sendall(b"\1\0\0\0" + (6).to_bytes(4, "big") + b"hello\n")
    assert process.stdout is not None
    assert process.stdout.readline() == b"hello\n"
    if number:
        process.send_signal(number)
        hook.peer.recv(65536)
    began = time.monotonic()
    hook.peer.sendall(wire.encode(wire.Message("ended", code=3)))

    assert process.wait(20) == (-number if number else 3)
    assert time.monotonic() - began < most_s
    ours.close()


def test_a_stream_that_is_lost_is_told_fake_agent(hook: Hook) -> None:
    """The agent knows whether the job is over with it; the hook waits for its end."""
    assert hook.process.stdin is not None
    ours = hook.stream(wire.Message("started", pid=0, fds=1))
    hook.process.stdin.write(b"/spool/7.vm.SC\n")
    hook.process.stdin.flush()
    assert ours.recv(100) == b"/spool/7.vm.SC\n"
    ours.close()
    eof = wire.decode(hook.peer.recv(65536)[wire.HEADER :])
    time.sleep(0.2)
    assert hook.process.poll() is None
    hook.peer.sendall(wire.encode(wire.Message("ended", code=4)))

    assert (eof.op, eof.text("job")) == ("eof", "7.vm")
    assert hook.process.wait(20) == 4


def test_a_terminal_is_raw_and_follows_its_window_fake_agent(tmp_path: Path) -> None:
    """An interactive job: its window's size at the start and after, bytes without frames, the terminal put back."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "agent.sock"))
    listener.listen()
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    code = "import sys; from pbsdock.hook.client import hook; hook()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--run-dir", str(tmp_path), "run", "/bin/sh"],
        stdin=slave,
        stdout=slave,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib"), "PBS_JOBID": "7.vm"},
    ) as process:
        killer = threading.Timer(30, process.kill)
        killer.start()
        peer, _ = listener.accept()
        peer.settimeout(20)
        messages = _messages(peer)
        asked = next(messages)
        hook = Hook(process, peer)
        with hook.stream(wire.Message("started", task="1", fds=1)) as engine:
            engine.settimeout(20)
            wait_until("the terminal is raw", lambda: not termios.tcgetattr(slave)[3] & termios.ICANON, 20)
            os.write(terminal, b"\x03ls\r")
            assert engine.recv(100) == b"\x03ls\r"
            engine.sendall(b"\x01\0\0\0out\r\n")
            assert os.read(terminal, 100) == b"\x01\0\0\0out\r\n"
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))
            process.send_signal(signal.SIGWINCH)
            resized = next(messages)
            peer.sendall(wire.encode(wire.Message("ended", code=9)))
        assert process.wait(20) == 9
        killer.cancel()
    after = termios.tcgetattr(slave)
    for fd in (terminal, slave):
        os.close(fd)
    listener.close()
    peer.close()

    assert (asked.op, asked.number("tty"), asked.number("rows"), asked.number("columns")) == ("start", 1, 24, 80)
    assert (resized.op, resized.number("rows"), resized.number("columns")) == ("resize", 50, 132)
    assert after == before


def _messages(peer: socket.socket) -> Iterator[wire.Message]:
    data = b""
    while piece := peer.recv(65536):
        data += piece
        while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
            size = int.from_bytes(data[:4], "big")
            yield wire.decode(data[4 : 4 + size])
            data = data[4 + size :]


@pytest.mark.parametrize(("said", "code"), [(0, 153), (3, 3)])
def test_output_past_the_file_limit_fake_agent(tmp_path: Path, said: int, code: int) -> None:
    """qsub -l file=: what does not fit is told, and a job that knows nothing of it has not succeeded."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "agent.sock"))
    listener.listen()
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
    program += "from pbsdock.hook.client import hook; hook()"
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--run-dir", str(tmp_path), "run", "/bin/sh"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "lib"), "PBS_JOBID": "7.vm", "PYTHONDONTWRITEBYTECODE": "1"},
        )
    peer, _ = listener.accept()
    peer.recv(65536)
    hook = Hook(process, peer)
    stream = hook.stream(wire.Message("started", pid=0, fds=1))
    stream.sendall(b"\1\0\0\0" + (10000).to_bytes(4, "big") + b"x" * 10000)
    stream.close()
    peer.sendall(wire.encode(wire.Message("ended", code=said)))
    _, err = process.communicate(timeout=20)

    assert process.returncode == code
    assert b"the job's standard output was cut off: File too large" in err
    assert (tmp_path / "out").stat().st_size == 8192
    peer.close()
    listener.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((5 << 20).to_bytes(4, "big") + b"started", "message of 5242880 bytes; at most 4194304 are taken"),
        ((3).to_bytes(4, "big") + b"a\0b", "malformed message"),
        (wire.encode(wire.Message("started", fds="x")), "fds is not a number"),
    ],
)
def test_an_answer_that_cannot_be_taken_fake_agent(tmp_path: Path, answer: bytes, said: str) -> None:
    """One sentence, and the job has not run; the agent is not asked for the same again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen()
        code = "import sys; from pbsdock.hook.client import hook; hook()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "--run-dir", str(tmp_path), "run", "/bin/sh"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "lib"), "PBS_JOBID": "7.vm"},
        )
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(answer)
            _, stderr = process.communicate(timeout=20)

    assert process.returncode == 125
    assert stderr.decode().splitlines() == [
        f"pbsdock: the job was not started: the agent's answer cannot be taken ({said}); give the job fewer or shorter"
        " variables"
    ]
