"""T39: the agent's shared threads. No client holds one up, and one that hangs all the same is told and mended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, begin_as, is_healthy, works

pytestmark = pytest.mark.engine


@contextmanager
def _configured(instance: Instance, text: str) -> Iterator[None]:
    good = instance.config.read_text()
    instance.configure(text)
    try:
        assert works(instance)
        yield
    finally:
        instance.configure(good)


def _prepared(instance: Instance, user: str) -> Trial:
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", user=user))
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.spool.record(None)
    return trial


def test_the_last_thing_the_agent_talks_to(instance: Instance) -> None:
    """The job of a client that reads nothing is taken away from it: the reaper, whose word it does not read, goes on."""
    with _configured(instance, "[reaper]\nperiod_s = 1\ngrace_s = 3\n"):
        trial = _prepared(instance, ATTACKER)
        with begin_as(
            instance,
            """
            link = Link(sys.argv[1], 20.0)
            link.send(wire.Message("start", job=sys.argv[2], argv=[b"/bin/sleep", b"100"], cwd="/", env=[b"PATH=/bin"]))
            assert link.recv()[0].op == "started"
            link.sock.setblocking(False)
            ping, until = wire.encode(wire.Message("ping")), time.monotonic() + 3
            count = 0
            while time.monotonic() < until:
                try:
                    link.sock.send(ping)
                    count += 1
                except BlockingIOError:
                    print("ready", count, flush=True)
                    break
                except OSError:
                    break
            print("over", count, flush=True)
            time.sleep(100)
        """,
            trial.job_id,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().split()[0] in ("ready", "over")
                trial.job_file.unlink(missing_ok=True)
                wait_until("its job is reaped", lambda: not instance.present(), 30)
                other = _prepared(instance, USERS[0])
                other.job_file.unlink(missing_ok=True)
                wait_until("the reaper goes on", lambda: not instance.present(), 30)
                assert works(instance)
                assert is_healthy(instance)
            finally:
                process.kill()
        trial.epilogue(0)
        other.epilogue(0)


def test_a_thread_that_hangs(instance: Instance) -> None:
    """By a trap that only root can set: it is told which one hangs, a new agent takes over, and a job notices nothing."""
    flag = instance.run_dir / "unhealthy"
    with _configured(instance, "[engine]\ntimeout_s = 2.5\n"):
        trial = instance.begin(
            f"#!/bin/sh\n#DOCKER {IMAGE}\necho ready; until [ -e go ]; do sleep 0.1; done; rm go; echo after; exit 6\n"
        )
        wait_until("the script runs", lambda: b"ready" in trial.out_path.read_bytes())
        before, agent = len(instance.events()), instance.agent_pids()[-1]
        os.mkfifo(flag)  # whoever opens it to read waits for a writer
        try:
            wait_until(
                "it is told", lambda: any(one["event"] == "agent.stuck" for one in instance.events()[before:]), 40
            )
        finally:
            flag.unlink()
        (told,) = (one for one in instance.events()[before:] if one["event"] == "agent.stuck")
        assert told["thread"] == "tick"
        assert 10 <= told["seconds"] < 30
        wait_until("another agent is there", lambda: instance.agent_pids()[-1] not in (agent, instance.agent_pids()[0]))
        (Path(trial.entry.pw_dir) / "go").touch()
        done = trial.finish(trial.wait())
        assert (done.exit_status, done.stdout) == (6, b"ready\nafter\n")
        assert is_healthy(instance)


def test_who_does_not_read_is_let_go(instance: Instance) -> None:
    """A client that asks and never reads keeps its thread for seconds, not for as long as it likes."""
    assert works(instance)
    agent = instance.agent_pids()[-1]
    threads = len(os.listdir(f"/proc/{agent}/task"))
    with begin_as(
        instance,
        """
        held = []
        for number in range(3):
            one = socket.socket(socket.AF_UNIX)
            one.connect(sys.argv[1])
            one.sendall(wire.encode(wire.Message("ping")) * 330)
            held.append(one)
        print("ready", flush=True)
        time.sleep(100)
    """,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert works(instance)
            wait_until("their threads are over", lambda: len(os.listdir(f"/proc/{agent}/task")) <= threads, 40)
        finally:
            process.kill()
