"""T33: a user's own program as the run hook. What it makes of agent and first process hurts nobody but its own job."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import ATTACKER, as_user, begin_as, works

pytestmark = [pytest.mark.engine, pytest.mark.threat(33)]

_START = """
    import os
    from pbsdock.protocol import init
    job = sys.argv[2]
    def ask(link, op, **fields):
        link.send(wire.Message(op, job=job, **fields))
        return link.recv()
    def door(fds):
        return init.Connection(f"/proc/self/fd/{fds[0]}/socket")
    one = Link(sys.argv[1], 20.0)
    task = dict(argv=[b"/bin/sh", b"-c", b"sleep 60 & wait"], env=[b"PATH=/bin"], cwd="/", umask=18)
    answer, fds = ask(one, "start", **task)
    assert answer.op == "started", answer.text("sentence")
"""


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@contextmanager
def _prepared(instance: Instance) -> Iterator[Trial]:
    """A job of the attacker's whose run hook is to be a program of their own."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", user=ATTACKER))
    trial.prepare_files()
    assert trial.prologue() == 0
    trial.spool.record(os.getpid())
    try:
        yield trial
    finally:
        trial.epilogue(0)


def test_an_end_told_by_others(instance: Instance) -> None:
    """240 connections say that a run is over which another waits for: no thread is had for it, and it runs on."""
    assert works(instance)
    agent = instance.agent_pids()[-1]
    threads = _threads(agent)
    with _prepared(instance) as trial:
        said = as_user(
            instance,
            _START
            + """
    links = [Link(sys.argv[1], 20.0) for _ in range(240)]
    for link in links:
        link.send(wire.Message("over", job=job, kind=2, number=0))
    print(*{link.recv()[0].text("code") for link in links})
    """,
            trial.job_id,
        )
        assert said == ["not-your-run"]
        wait_until("their threads are over", lambda: _threads(agent) < threads + 10)
        assert instance.inspect(trial.job_id)["State"]["Running"]


def test_a_run_is_not_joined_by_a_second(instance: Instance) -> None:
    """While a run hook is there nobody takes its place; once it is gone, one may. An end that is none is refused."""
    with _prepared(instance) as trial:
        said = as_user(
            instance,
            _START
            + """
    two = Link(sys.argv[1], 20.0)
    for op in ("rejoin", "over", "eof", "start"):
        link = one if op == "start" else two
        print(op, ask(link, op, **(task if op == "start" else {}))[0].text("code"))
    print("over", ask(one, "over", kind=7, number=0)[0].text("code"))
    one.close()
    two.send(wire.Message("rejoin", job=job))
    print("over", ask(two, "over", kind=2, number=3 << 8)[0].number("code"))
    """,
            trial.job_id,
        )

    assert said == [
        "rejoin has-a-run-hook",
        "over not-your-run",
        "eof not-your-stream",
        "start one-run-a-connection",
        "over bad-request",
        "over 3",
    ]


def test_tasks_without_end(instance: Instance) -> None:
    """Tasks that are asked for and never begin, be their hooks there or not, are bounded and gone with the job."""
    assert works(instance)
    agent = instance.agent_pids()[-1]
    ours = len(os.listdir(f"/proc/{agent}/fd"))
    with _prepared(instance) as trial:
        said = as_user(
            instance,
            _START
            + """
    started, links, begun = 0, [], time.monotonic()
    while time.monotonic() - begun < 8:
        try:
            link = Link(sys.argv[1], 5.0)
            answer, handed = ask(link, "start", **task)
        except Exception:
            break
        for fd in handed:
            os.close(fd)
        if answer.op != "started":
            break
        started += 1
        links.append(link) if started % 2 else link.close()
    print(started > 5)
    """,
            trial.job_id,
        )
        assert said == ["True"]
        assert works(instance, USERS[0])
    wait_until("the agent has closed its ends", lambda: len(os.listdir(f"/proc/{agent}/fd")) <= ours + 16, 20)
    assert instance.left() == []


def test_a_first_process_that_is_flooded(instance: Instance) -> None:
    """Its owner's connections and unfinished requests keep neither root nor the job's end from it."""
    with (
        _prepared(instance) as trial,
        begin_as(
            instance,
            _START
            + """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    doors = []
    for number in range(1500):
        try:
            doors.append(door(fds))
            doors[-1].sock.settimeout(0.2)
            doors[-1].send(init.encode_join("x" * 64)[: number % 200])
        except init.InitError:
            pass
    print(len(doors) > 500, flush=True)
    time.sleep(100)
    """,
            trial.job_id,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            assert works(instance, USERS[0])
        finally:
            process.kill()
    assert instance.left() == []


def test_another_who_listens_in_its_place(instance: Instance) -> None:
    """The directory is the user's: a socket of theirs in it is asked for by nobody but them."""
    with _prepared(instance) as trial:
        said = as_user(
            instance,
            _START
            + """
    import socket as sockets
    os.chdir(f"/proc/self/fd/{fds[0]}")
    os.rename("socket", "moved")
    fake = sockets.socket(sockets.AF_UNIX)
    fake.bind("socket")
    fake.listen(5)
    two = Link(sys.argv[1], 20.0)
    answer, handed = ask(two, "start", **task)
    print(answer.op)
    two.close()
    fake.settimeout(9)
    try:
        conn, _ = fake.accept()
        print("asked:", conn.recv(4096)[:8] != b"")
    except TimeoutError:
        print("nobody came")
    """,
            trial.job_id,
        )
        # The agent connects to kill the task whose hook is gone, sees who listens, and says nothing.
        assert said[0] == "started"
        assert said[1] in ("asked: False", "nobody came")
    assert instance.left() == []


def test_links_in_the_place_of_an_end(instance: Instance) -> None:
    """What root reads and removes there are the user's own files: a link leads nowhere, a fifo is not waited for."""
    victim = Path("/var/tmp/pbsdock-victim.status")
    victim.write_text("ended 0\n")
    try:
        with _prepared(instance) as trial:
            began = time.monotonic()
            said = as_user(
                instance,
                _START
                + """
    os.chdir(f"/proc/self/fd/{fds[0]}")
    os.symlink("/var/tmp/pbsdock-victim.status", "leader.status")
    print(ask(one, "over", kind=2, number=5 << 8)[0].number("code"))
    """,
                trial.job_id,
            )
            assert said == ["5"]
            assert time.monotonic() - began < 20
        assert victim.read_text() == "ended 0\n"
    finally:
        victim.unlink()
    assert instance.left() == []
