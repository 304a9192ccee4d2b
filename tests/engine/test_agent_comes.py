"""Mom's node check brings an agent, however the one before it ended: nobody runs the check again for a minute."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.conftest import Instance, wait_until
from tests.support.agents import running

pytestmark = pytest.mark.engine


@pytest.fixture
def node(instance: Instance) -> Iterator[Instance]:
    """The instance without an agent and with a reason to want one."""
    instance.kill_agent()
    instance.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (instance.run_dir / "agent.sock").unlink(missing_ok=True)
    (instance.run_dir / "unhealthy").write_text("a reason to want an agent\n")
    yield instance
    (instance.run_dir / "unhealthy").unlink(missing_ok=True)


def _check(node: Instance) -> None:
    subprocess.run([str(node.root / "opt/pbsdock/hooks/node-check")], check=True, capture_output=True)


def _assert_comes(node: Instance) -> None:
    """Within the time that one starter waits for it."""
    wait_until("an agent answers", lambda: node.command("ps").returncode == 0, 30)
    wait_until("it lowers the flag", lambda: not (node.run_dir / "unhealthy").exists(), 30)


def _arrived(node: Instance) -> None:
    wait_until("the starter is there", lambda: bool(running(f"{node.home}/", "ensure-agent")))


def test_the_one_before_is_long_in_ending(node: Instance) -> None:
    """What the kernel has not finished ending keeps its lock; here another process keeps it for as long as a slow disk."""
    lock = os.open(node.state_dir / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _check(node)
        _arrived(node)
        time.sleep(8)
    finally:
        os.close(lock)

    _assert_comes(node)


def test_killed_while_it_starts(node: Instance) -> None:
    """The starter that waits for it starts another."""
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 20
        while not killed and time.monotonic() < deadline:
            for pid in node.agent_pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    _check(node)
    killer.join()

    assert killed
    _assert_comes(node)


def test_its_socket_takes_connections_a_while_longer(node: Instance) -> None:
    """A killed agent's socket is there until its last thread has ended: to connect is no answer."""
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(node.run_dir / "agent.sock"))
        dying.listen()
        _check(node)
        _arrived(node)
        time.sleep(1)

    _assert_comes(node)
