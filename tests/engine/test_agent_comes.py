"""An agent comes whenever a hook wants one, however the one before it ended."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from tests.conftest import IMAGE, Instance, wait_until
from tests.support.agents import running

pytestmark = pytest.mark.engine
_SCRIPT = f"#!/bin/sh\n#DOCKER {IMAGE}\necho done\n"


def test_the_one_before_is_long_in_ending(instance: Instance) -> None:
    """What the kernel has not finished ending keeps its lock; here another process keeps it for as long as a slow disk."""
    instance.kill_agent()
    instance.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(instance.state_dir / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ended = threading.Timer(8.0, os.close, (lock,))
    ended.start()
    try:
        done = instance.run(_SCRIPT)
    finally:
        ended.join()

    assert (done.stdout, done.exit_status) == (b"done\n", 0), done.stderr


def test_killed_while_it_starts(instance: Instance) -> None:
    """The hook that waits for it starts another."""
    instance.kill_agent()
    (instance.run_dir / "agent.sock").unlink(missing_ok=True)
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 20
        while not killed and time.monotonic() < deadline:
            for pid in instance.agent_pids():
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    done = instance.run(_SCRIPT)
    killer.join()

    assert killed
    assert (done.stdout, done.exit_status) == (b"done\n", 0), done.stderr


def test_its_socket_takes_connections_a_while_longer(instance: Instance) -> None:
    """A killed agent's socket is there until its last thread has ended: to connect is no answer. Mom's node check, which
    nobody repeats for a minute, starts another all the same."""
    instance.kill_agent()
    door = instance.run_dir / "agent.sock"
    door.unlink(missing_ok=True)
    (instance.run_dir / "unhealthy").write_text("a reason to want an agent\n")
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(door))
        dying.listen()
        subprocess.run([str(instance.root / "opt/pbsdock/hooks/node-check")], check=True, capture_output=True)
        wait_until("the starter is there", lambda: bool(running(f"{instance.home}/", "ensure-agent")))
        time.sleep(1)
    wait_until("an agent answers", lambda: instance.command("ps").returncode == 0, 30)
    wait_until("the flag is lowered", lambda: not (instance.run_dir / "unhealthy").exists(), 30)
