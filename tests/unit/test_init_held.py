"""What the first process holds until root lets it go on, and the descriptor that may come along."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pbsdock.protocol import init
from tests.support.first_process import ENVIRONMENT, OWNER, FirstProcess, build
from tests.unit.test_init_run import _as_user

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="making namespaces needs root")
_ANOTHER = 32  # message.h


@pytest.fixture(scope="module", params=["installed", "sanitized"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is installed, and with the compiler's sanitizers."""
    return build(tmp_path_factory, sanitized=request.param == "sanitized")


@contextmanager
def holding(program: Path, hold: int) -> Iterator[FirstProcess]:
    """One whose gate was opened so."""
    with FirstProcess(program, is_open=False) as first:
        connection = first.connect()
        connection.send(init.encode_open({}, hold))
        assert connection.receive().kind == init.DONE
        connection.close()
        yield first


def ask(first: FirstProcess, message: bytes) -> init.Answer:
    """What root is answered."""
    connection = first.connect()
    try:
        connection.send(message)
        return connection.receive()
    finally:
        connection.close()


def test_a_task_waits_for_root(program: Path) -> None:
    """It has told its pid and is nothing but a child of the first process's; only its own number lets it go on, once."""
    with holding(program, init.HOLD_TASKS) as first:
        read_end, write_end = os.pipe()
        connection = first.start("task", "sh", "-c", "echo ran; exit 3", fds=(write_end, write_end, write_end))
        os.close(write_end)
        told = connection.receive()
        assert told.kind == init.PID
        assert os.readlink(f"/proc/{told.host_pid}/exe") == os.readlink(f"/proc/{first.pid}/exe")

        assert _as_user(OWNER, first.path, init.encode_go("task", told.number)) == (init.FAILED, errno.EPERM)
        assert ask(first, init.encode_go("task", told.number + 1)).kind == init.FAILED
        assert ask(first, init.encode_go("other", told.number)).kind == init.FAILED
        assert first.status("task") is None
        assert ask(first, init.encode_go("task", told.number)).kind == init.DONE
        assert connection.receive().code == 3
        assert os.read(read_end, 100) == b"ran\n"
        assert ask(first, init.encode_go("task", told.number)).kind == init.FAILED
        os.close(read_end)


@pytest.mark.parametrize("hold", [init.HOLD_NONE, init.HOLD_TASKS, init.HOLD_ALL])
def test_the_leader_waits_where_all_do(program: Path, hold: int) -> None:
    """Its place is process 1's, where that has one."""
    with holding(program, hold) as first:
        connection = first.start("leader", "true", flags=init.SESSION | init.SEARCH | init.LEADER)
        told = connection.receive()
        if hold == init.HOLD_ALL:
            assert first.status("leader") is None
            assert ask(first, init.encode_go("leader", told.number)).kind == init.DONE
        assert connection.receive().code == 0


def test_signals_reach_what_is_held_when_it_runs(program: Path) -> None:
    """But for SIGKILL, which ends it; its end is told."""
    with holding(program, init.HOLD_TASKS) as first:
        for number in (9, 15):
            connection = first.start(f"task-{number}", "sleep", "60")
            told = connection.receive()
            assert ask(first, init.encode_signal(f"task-{number}", number)).kind == init.DONE
            if number == 15:
                assert first.status("task-15") is None
                ask(first, init.encode_go("task-15", told.number))
            assert connection.receive().signal == number


def test_another_descriptor_becomes_3(program: Path) -> None:
    """As it is; where none is announced there is none, and one that is announced must come."""
    with FirstProcess(program) as first:
        ours, theirs = socket.socketpair()
        with open(os.devnull) as null, ours, theirs:
            fds = (null.fileno(), null.fileno(), null.fileno(), theirs.fileno())
            connection = first.connect()
            argv = [b"/bin/sh", b"-c", b"echo hello >&3; ls /proc/self/fd | wc -l >&3"]
            run = init.Run("task", argv, ENVIRONMENT, b"/", umask=18, flags=init.SESSION | _ANOTHER)
            connection.send(init.encode_run(run), fds)
            assert connection.receive().kind == init.PID
            assert connection.receive().code == 0
            assert ours.recv(100).split()[0] == b"hello"
            for flags, sent in ((init.SESSION | _ANOTHER, fds[:3]), (init.SESSION, fds)):
                wrong = init.Run(f"wrong-{flags}", argv, ENVIRONMENT, b"/", umask=18, flags=flags)
                with suppress(init.InitError):
                    connection = first.connect()
                    connection.send(init.encode_run(wrong), sent)
                    answer = connection.receive()
                    assert (answer.kind, answer.step) == (init.FAILED, "descriptors")
