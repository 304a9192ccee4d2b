"""The agent as a service manager runs it: in the foreground, on a socket it is given."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.conftest import IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine


def test_the_service_takes_over_from_an_agent_a_hook_has_started(instance: Instance) -> None:
    """A job that runs meanwhile notices nothing, and there is one agent afterwards: the service's, at its own door."""
    trial = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready; sleep 3; echo after; exit 6\n")
    wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
    by_hook = set(instance.agent_pids())
    door = instance.run_dir / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{door}.new")
        os.chmod(f"{door}.new", 0o666)
        listener.listen(64)
        os.rename(f"{door}.new", door)
        program = f'exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" --foreground'
        service = subprocess.Popen(
            ["bash", "-c", program, str(instance.root / "opt/pbsdock/bin/pbsdock-agent")], pass_fds=[listener.fileno()]
        )
    try:
        wait_until("the other agent is gone", lambda: not by_hook & set(instance.agent_pids()))
        done = trial.finish(trial.wait())
        assert (done.exit_status, done.stdout) == (6, b"ready\nafter\n")
        assert instance.agent_pids() == [service.pid]
        assert instance.left() == []
    finally:
        service.terminate()
        service.wait(20)
