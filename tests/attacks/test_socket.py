"""The agent's socket in the hands of an ordinary user: whatever they send, other jobs run on (T2, T21, T32, T33)."""

from __future__ import annotations

import os
import socket
import subprocess
import textwrap
import time

import pytest

from pbsdock import wire
from tests.conftest import IMAGE, USERS, Instance, wait_until

pytestmark = pytest.mark.engine
ATTACKER = USERS[1]


def _as_attacker(instance: Instance, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as another user than the jobs' owner; PATH of the socket is argument 1."""
    library = str(next((instance.root / "opt/pbsdock/venv/lib").glob("python3*/site-packages")))
    head = f"import sys, os, socket, time, random; sys.path.insert(0, {library!r}); from pbsdock import wire\n"
    return subprocess.run(
        ["/usr/bin/python3", "-c", head + textwrap.dedent(code), str(instance.run_dir / "agent.sock"), *arguments],
        user=ATTACKER, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _works(instance: Instance) -> bool:
    return instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ok\n").stdout == b"ok\n"


def test_garbage(instance: Instance) -> None:
    """Random bytes, wrong lengths, half messages: each connection is dropped, none is answered with anything of use."""
    pids = instance.agent_pids() if _works(instance) else []
    done = _as_attacker(instance, """
        random.seed(4)
        answered = 0
        for number in range(400):
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                one.connect(sys.argv[1])
                size = random.choice([0, 1, 3, 4, 5, 40, 4000])
                body = random.randbytes(size)
                head = random.choice([b"", len(body).to_bytes(4, "big"), b"\\xff\\xff\\xff\\xff", b"\\0\\0\\0\\0"])
                try:
                    one.sendall(head + body)
                    one.shutdown(socket.SHUT_WR)
                    answered += bool(one.recv(4096))
                except OSError:
                    pass
        print(answered)
    """)  # fmt: skip

    assert done.stderr == ""
    assert int(done.stdout) <= 400
    assert instance.agent_pids() == pids
    assert _works(instance)


@pytest.mark.parametrize("job", ["../../etc/passwd", "7.vm/../8.vm", "", "*", "7.vm\nforged", "7.vm\x1b[2J", "7" * 5000, "1[].vm[2]"])
def test_job_ids_that_are_none(instance: Instance, job: str) -> None:
    """A job id is a job id: no path, no pattern, no second line in the event stream."""
    before = len(instance.events_file.read_text().splitlines())
    done = _as_attacker(instance, """
        from pbsdock.link import Link
        link = Link(sys.argv[1], 5.0)
        for op in ("start", "signal", "rejoin", "resize", "eof", "adopted"):
            link.send(wire.Message(op, job=sys.argv[2], argv=[b"/bin/sh"], rows=9, columns=9, signal=9, directive=b"busybox"))
            answer, fds = link.recv()
            print(answer.op, answer.text("code"), len(fds))
    """, job)  # fmt: skip

    assert done.stderr == ""
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"refused"}
    assert all(line.endswith(" 0") for line in done.stdout.splitlines())
    for line in instance.events_file.read_text().splitlines()[before:]:
        assert line.startswith('{"ts":"')


def test_slow_and_silent_clients(instance: Instance) -> None:
    """Clients that say nothing, or stop in mid-message, keep nobody waiting and are let go."""
    assert _works(instance)
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", textwrap.dedent("""
            import socket, sys, time
            held = []
            for number in range(300):
                one = socket.socket(socket.AF_UNIX)
                try:
                    one.connect(sys.argv[1])
                    one.sendall(b"\\0\\0\\1\\0pre" if number % 2 else b"")
                except OSError:
                    pass
                held.append(one)
            print("ready", flush=True)
            time.sleep(60)
        """), str(instance.run_dir / "agent.sock")],
        user=ATTACKER, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    try:
        began = time.monotonic()
        assert _works(instance)
        assert time.monotonic() - began < 5
        worker = max(instance.agent_pids())
        wait_until("they are let go", lambda: len(os.listdir(f"/proc/{worker}/fd")) < 100, 40)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_user_cannot_take_all_connections(instance: Instance) -> None:
    """A user's connections are bounded: another user's job still gets through while they are all held."""
    assert _works(instance)
    done = _as_attacker(instance, """
        held = []
        for number in range(3000):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(2)
            try:
                one.connect(sys.argv[1])
                one.sendall(wire.encode(wire.Message("ping")))
                if not one.recv(100):
                    break
            except OSError:
                break
            held.append(one)
        print(len(held))
    """)  # fmt: skip

    assert 0 < int(done.stdout) < 3000
    assert _works(instance)


def test_message_above_the_limit(instance: Instance) -> None:
    """A length above the limit ends the connection before anything of the body is kept."""
    assert _works(instance)
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(str(instance.run_dir / "agent.sock"))
        one.sendall((1 << 30).to_bytes(4, "big"))
        assert one.recv(10) == b""
    with pytest.raises(wire.WireError):
        wire.length((1 << 30).to_bytes(4, "big"), 1 << 20)


def test_operations_of_root(instance: Instance) -> None:
    """A user may not prepare, release, sweep, reap or list; the refusal is an event that names their uid."""
    done = _as_attacker(instance, """
        from pbsdock.link import Link
        link = Link(sys.argv[1], 5.0)
        for op in ("prepare", "release", "sweep", "reap", "list", "no-such"):
            link.send(wire.Message(op, argv=[b"7.vm", b"root", b"root", b"x"], dry_run=0))
            answer, _ = link.recv()
            print(op, answer.op, answer.text("code"))
        print(os.getuid())
    """)  # fmt: skip
    *answers, uid = done.stdout.splitlines()

    assert answers == [
        *(f"{op} refused root-only" for op in ("prepare", "release", "sweep", "reap", "list")),
        "no-such refused unknown-request",
    ]
    told = [one for one in instance.events() if one["event"] == "client.refused" and one.get("uid") == int(uid)]
    assert {"prepare", "reap"} <= {one["op"] for one in told if "op" in one}
