"""T33: a user's own program as the run hook, where the engine passes on the streams. What it makes the engine open is
bounded, and closed when the job is over."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, as_user, begin_as, works

pytestmark = pytest.mark.engine
_ONE_STREAM = 20  # descriptors of the engine's for one stream, and something more
_KEPT = 30  # connections the agent keeps for what it asks next
_JOB = 60  # and those for a job: the container's, its shim's, its streams


def _engine_descriptors() -> int:
    """Of the process that listens at its socket."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.connect("/var/run/docker.sock")
        pid = struct.unpack("iii", engine.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return len(os.listdir(f"/proc/{pid}/fd"))


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@contextmanager
def _prepared(instance: Instance) -> Iterator[Trial]:
    """A job of the attacker's whose run hook is to be a program of their own."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", user=ATTACKER))
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.spool.record(None)
    try:
        yield trial
    finally:
        trial.epilogue(0)


@pytest.fixture(scope="module", autouse=True)
def _no_first_process(installed: Instance) -> Iterator[None]:
    before = installed.config.read_text()
    installed.configure("[engine]\nfirst_process = false\n")
    yield
    installed.configure(before)


@pytest.fixture
def at_rest(instance: Instance) -> Iterator[int]:
    """The engine's descriptors before; once the jobs are over there are no more of them."""
    assert works(instance)
    before = _engine_descriptors()
    yield before
    _assert_closed(instance, before)


def _assert_closed(instance: Instance, before: int) -> None:
    assert works(instance)
    try:
        wait_until("it has closed what it had opened", lambda: _engine_descriptors() <= before + _KEPT, 20)
    except AssertionError:
        raise AssertionError(f"the engine had {before} descriptors and has {_engine_descriptors()}") from None


_START = """
    import threading
    job = sys.argv[2]
    def ask(link, op, **fields):
        link.send(wire.Message(op, job=job, **fields))
        return link.recv()
    one = Link(sys.argv[1], 20.0)
    task = dict(argv=[b"/bin/sh", b"-c", b"sleep 60 & wait"], env=[b"PATH=/bin"], cwd="/", umask=18)
    answer, fds = ask(one, "start", **task)
    assert answer.op == "started", answer.text("sentence")
"""


def test_tasks_without_end(instance: Instance) -> None:
    """Tasks that do not end, be their hooks there or not, are bounded, told so, and gone with the job."""
    assert works(instance)
    agent, before = instance.agent_pids()[-1], _engine_descriptors()
    ours = len(os.listdir(f"/proc/{agent}/fd"))
    most = max(64, 4 * (os.cpu_count() or 1))
    with _prepared(instance) as trial:
        said = as_user(
            instance,
            _START
            + """
    started, links = 0, []
    while True:
        link = Link(sys.argv[1], 60.0)
        answer, _ = ask(link, "start", **task)
        if answer.op != "started":
            break
        started += 1
        if started % 2:
            links.append(link)
        else:
            link.close()
    print(started, answer.text("code"))
    """,
            trial.job_id,
        )
        assert said == [f"{most} too-many-tasks"]
        assert works(instance, USERS[0])
    wait_until("the agent has closed its ends", lambda: len(os.listdir(f"/proc/{agent}/fd")) <= ours + 16, 20)
    # An engine drops its end of an exec's connection with the container only when it next collects its garbage, two
    # minutes later at most: it is the same with plain `docker exec` (observed with 20.10).
    _assert_closed(instance, before + most)


def test_a_stream_nobody_reads_any_more(instance: Instance, at_rest: int) -> None:
    """A run hook that is killed does not stop its job's output: who keeps its stream keeps a dead one."""
    with _prepared(instance) as trial:
        code = _START.replace("sleep 60 & wait", "yes | head -c 3000000; echo > /tmp/done; sleep 60")
        with begin_as(
            instance,
            code
            + """
    one.close()
    print("ready", flush=True)
    time.sleep(100)
    """,
            trial.job_id,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                container = instance.inspect(trial.job_id)["State"]["Pid"]
                began = time.monotonic()
                done = Path(f"/proc/{container}/root/tmp/done")
                wait_until("all is written", done.exists, 20)
                assert time.monotonic() - began > 1
            finally:
                process.kill()
