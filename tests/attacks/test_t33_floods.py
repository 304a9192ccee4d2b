"""T33: hangs and floods. Whatever clients send, hold or leave half done, and whoever hangs, other users' jobs run on."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pbsdock.protocol import wire
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import ATTACKER, as_user, begin_as, is_healthy, works
from tests.support.threats import seconds

pytestmark = pytest.mark.engine


@pytest.fixture
def agent(instance: Instance) -> int:
    """The worker's pid; it must outlive the test."""
    assert works(instance)
    pids = instance.agent_pids()
    yield pids[-1]
    assert instance.agent_pids() == pids


@contextmanager
def impatient(instance: Instance, text: str) -> Iterator[tuple[int, int]]:
    """The instance with another configuration; yields the worker's pid and how many descriptors it has at rest."""
    good = instance.config.read_text()
    instance.configure(text)
    try:
        assert works(instance)
        agent = instance.agent_pids()[-1]
        yield agent, _descriptors(agent)
    finally:
        instance.configure(good)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_garbage(instance: Instance, agent: int) -> None:
    """Random bytes, wrong lengths, halves of real messages: no answer is of use, and the agent says no more of it."""
    before = len(instance.events())
    said = as_user(
        instance,
        """
        random.seed(int(sys.argv[2]))
        until, count = time.monotonic() + float(sys.argv[3]), 0
        ops = ["start", "prepare", "ping", "rejoin", "signal", "list", "eof", "", "\\x7f", "start" * 9]
        while time.monotonic() < until:
            count += 1
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(0.2)  # an on-demand start of a job that may yet appear is waited for
                try:
                    one.connect(sys.argv[1])
                    kind = random.randrange(4)
                    if kind == 0:
                        body = random.randbytes(random.choice([0, 1, 3, 4, 5, 40, 4000]))
                        data = random.choice([b"", len(body).to_bytes(4, "big"), b"\\xff" * 4, bytes(4)]) + body
                    else:
                        message = wire.Message(random.choice(ops))
                        for key in random.sample(["job", "argv", "env", "task", "signal", "rows", "directive", "cwd", "x" * 40], 4):
                            value = random.choice([b"", b"7.vm", b"-1", b"9" * 30, b"\\xff\\xfe", b"../x", b"%n" * 50, b"\\n{}"])
                            message.fields[key] = [value] * random.choice([1, 1, 500])
                        data = bytearray(wire.encode(message))
                        if kind == 2:
                            for _ in range(3):
                                data[random.randrange(len(data))] = random.randrange(256)
                        if kind == 3:
                            del data[random.randrange(len(data)) :]
                    one.sendall(data)
                    one.shutdown(socket.SHUT_WR)
                    answer = one.recv(4096)
                    assert not answer or answer[4:].startswith((b"refused", b"pong", b"fault")), answer
                except OSError:
                    pass
        print(count)
    """,
        str(random.randrange(1 << 30)),
        str(seconds(3, 120)),
    )

    assert int(said[0]) > 20
    errors = [one for one in instance.events()[before:] if one["event"] == "agent.error"]
    assert errors == []
    assert works(instance)


def test_silent_half_open_and_slow_clients(instance: Instance) -> None:
    """Who says nothing, stops in mid-message, or sends a byte now and then, keeps nobody waiting and is let go."""
    with (
        impatient(instance, "[agent]\nrequest_timeout_s = 2\n") as (agent, before),
        begin_as(
            instance,
            """
        held = []
        for number in range(200):
            one = socket.socket(socket.AF_UNIX)
            one.connect(sys.argv[1])
            one.sendall([b"", b"\\0\\0\\1\\0pre", wire.encode(wire.Message("ping")), b"\\0\\0\\4\\0"][number % 4])
            if number % 8 == 1:
                one.shutdown(socket.SHUT_WR)
            held.append(one)
        print("ready", flush=True)
        while True:
            time.sleep(0.5)
            for one in held[3::4]:
                try:
                    one.send(b"x")
                except OSError:
                    pass
    """,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            process.stdout.readline()
            began = time.monotonic()
            assert works(instance)
            assert time.monotonic() - began < 10
            wait_until("they are let go", lambda: _descriptors(agent) < before + 20, 40)
        finally:
            process.kill()


def test_a_thousand_connections(instance: Instance, agent: int) -> None:
    """A user gets a share of the connections: while they hold all they can get, root and others still get through."""
    with begin_as(
        instance,
        """
        held = []
        for number in range(1000):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(2)
            try:
                one.connect(sys.argv[1])
                one.sendall(wire.encode(wire.Message("ping")))
                if one.recv(100):
                    held.append(one)
            except OSError:
                pass
        print(len(held), flush=True)
        time.sleep(100)
    """,
    ) as process:
        try:
            assert process.stdout is not None
            assert 8 <= int(process.stdout.readline()) <= 264
            assert works(instance)
            assert is_healthy(instance)
        finally:
            process.kill()
    assert works(instance, ATTACKER)


def test_all_connections_of_all_users(instance: Instance) -> None:
    """Users who take every place there is cannot keep root's hooks out: no job is queued again for it."""
    with impatient(instance, "[agent]\nmax_connections = 32\n"):
        holders = [
            begin_as(
                instance,
                """
            held = []
            while True:
                one = socket.socket(socket.AF_UNIX)
                one.settimeout(1)
                try:
                    one.connect(sys.argv[1])
                    one.sendall(b"\\0")
                    held.append(one)
                    held[:-64] = []
                except OSError:
                    pass
                if len(held) == 40:
                    print("ready", flush=True)
                time.sleep(0.005)
        """,
                user=user,
            )
            for user in ("nobody", "games", "man", "mail", "news")
        ]
        try:
            for one in holders:
                assert one.stdout is not None
                assert one.stdout.readline() == "ready\n"
            done = instance.run(f"#!/bin/sh\n#DOCKER --network bridge {IMAGE}\n")
            assert done.prologue_status == 0
        finally:
            for one in holders:
                one.kill()
                one.communicate()
        assert is_healthy(instance)


def test_descriptors_sent_along(instance: Instance, agent: int) -> None:
    """Descriptors a client attaches to its messages do not stay open in the agent."""
    before = _descriptors(agent)
    said = as_user(
        instance,
        """
        held, fds = [], [os.open("/dev/null", os.O_RDONLY) for _ in range(250)]
        for number in range(40):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(5)
            one.connect(sys.argv[1])
            socket.send_fds(one, [wire.encode(wire.Message("ping"))], fds)
            held.append(one.recv(100))
        print(len([one for one in held if one]), flush=True)
    """,
    )

    assert said == ["40"]
    wait_until("they are closed", lambda: _descriptors(agent) < before + 10)


def test_oversized_messages(instance: Instance, agent: int) -> None:
    """A length above the limit ends the connection at once; many of the largest do not fill the agent's memory."""
    before = _resident(agent)
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(str(instance.run_dir / "agent.sock"))
        one.sendall((1 << 30).to_bytes(4, "big"))
        assert one.recv(10) == b""
    with pytest.raises(wire.WireError):
        wire.decode(b"x" + b"\0" * (4 << 20))
    with begin_as(
        instance,
        """
        import threading
        held = []
        def send():
            for number in range(10):
                one = socket.socket(socket.AF_UNIX)
                one.settimeout(0.2)
                try:
                    one.connect(sys.argv[1])
                    one.sendall((4 << 20).to_bytes(4, "big") + bytes((4 << 20) - 1))
                    held.append(one)
                except OSError:
                    pass
        threads = [threading.Thread(target=send) for _ in range(20)]
        [one.start() for one in threads]
        [one.join() for one in threads]
        print(len(held), flush=True)
        time.sleep(100)
    """,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert _resident(agent) - before < 200 << 20
            assert works(instance)
        finally:
            process.kill()


def test_more_questions_than_anybody_has(instance: Instance, agent: int) -> None:
    """A user who asks without end is answered more slowly, so the event stream and the CPU stay the others'."""
    before = len(instance.events())
    said = as_user(
        instance,
        """
        count, until = [0], time.monotonic() + 6
        import threading
        def ask():
            link = Link(sys.argv[1], 30.0)
            while time.monotonic() < until:
                link.send(wire.Message("reap"))
                link.recv()
                count[0] += 1
        threads = [threading.Thread(target=ask) for _ in range(20)]
        [one.start() for one in threads]
        [one.join() for one in threads]
        print(count[0])
    """,
    )

    assert int(said[0]) < 1000 + 6 * 50 + 100
    assert len(instance.events()) - before < 1500
    began = time.monotonic()
    assert works(instance)
    assert time.monotonic() - began < 5


@contextmanager
def _hung_engine(path: Path) -> Iterator[None]:
    """A socket that takes every connection and never says a word."""
    listener = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    listener.listen(64)
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        for one in held:
            one.close()
        path.unlink()


def test_an_engine_that_never_answers(instance: Instance) -> None:
    """It costs a prologue one deadline, not mom's alarm; the node says so, and plain jobs run on."""
    good = instance.config.read_text()
    path = instance.root / "hung.sock"
    with _hung_engine(path):
        instance.configure(f'[engine]\nsocket = "{path}"\ntimeout_s = 2\n[health]\nhold_s = 1\n')
        try:
            began = time.monotonic()
            done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
            took = time.monotonic() - began
            plain = instance.run("#!/bin/sh\necho plain\n")
        finally:
            instance.config.write_text(good)
            instance.kill_agent()

    assert done.exit_status == -14
    assert done.node_down is not None
    assert done.node_down.startswith("ERROR pbsdock: the Docker engine does not answer: ")
    assert took < 25
    assert plain.stdout == b"plain\n"
    subprocess.run([str(instance.root / "opt/pbsdock/hooks/node-check")], check=True, capture_output=True)
    wait_until("the node is back", lambda: is_healthy(instance), 40)
    assert works(instance)


def test_more_descriptors_than_select_knows(instance: Instance) -> None:
    """With 1,100 connections open, what the agent opens next has numbers above 1023: jobs run all the same."""
    with impatient(instance, "[agent]\nmax_connections = 6000\nrequest_timeout_s = 120\n") as (agent, before):
        with begin_as(
            instance,
            """
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            held = []
            for number in range(1100):
                if number >= 950:
                    time.sleep(0.03)  # no faster than a user may connect
                one = socket.socket(socket.AF_UNIX)
                one.connect(sys.argv[1])
                one.sendall((100).to_bytes(4, "big"))
                held.append(one)
            print("ready", flush=True)
            time.sleep(100)
        """,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                wait_until("they are open", lambda: _descriptors(agent) > before + 1090)
                for _ in range(3):  # at once: the engine is asked by new connections, which are kept and asked again
                    with ThreadPoolExecutor(6) as pool:
                        assert all(pool.map(lambda _: works(instance), range(6)))
                done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho out; sleep 0.5; echo err >&2; exit 3\n")
                assert (done.exit_status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
                assert _descriptors(agent) > before + 1090
                assert is_healthy(instance)
            finally:
                process.kill()
    assert works(instance)
