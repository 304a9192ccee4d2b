"""T40, the channel's part: no user, and no other host, has the agent believe, answer or wait for them on its TCP port."""

from __future__ import annotations

import json
import os
import random
import socket
import string
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pbsdock.cluster.channel import MOST_LINE, Request, answer_line, request_line
from pbsdock.cluster.client import ask
from pbsdock.cluster.signing import KeySigner
from tests.conftest import IMAGE, Instance, wait_until
from tests.support.attack import as_user, begin_as, is_healthy, works
from tests.support.ports import free_port
from tests.support.threats import seconds

pytestmark = pytest.mark.engine
_NODE = socket.gethostname()


@dataclass
class Door:
    """The agent's TCP port, and what only root of a node has."""

    instance: Instance
    port: int
    signer: KeySigner

    def ask(self, **options: Any) -> dict[str, Any]:
        """As another node's agent."""
        return ask(self.signer, _NODE, self.port, "job", "7.s", **{"timeout_s": 5.0, **options})

    def request(self, **changes: Any) -> Request:
        return replace(Request(op="job", job="7.s", sender="n2", to=_NODE, at=time.time()), **changes)

    def said(self, data: bytes) -> bytes:
        """All that comes back for these bytes."""
        found = b""
        with socket.socket() as connection:
            connection.settimeout(30)
            try:
                connection.connect((_NODE, self.port))
                connection.sendall(data)
                while more := connection.recv(65536):
                    found += more
            except ConnectionError:
                pass
        return found

    def refused(self) -> list[dict[str, Any]]:
        return [event for event in self.instance.events() if event["event"] == "channel.refused"]

    @property
    def worker(self) -> int:
        return self.instance.agent_pids()[-1]


def _orders(instance: Instance) -> list[dict[str, Any]]:
    return [event for event in instance.events() if event["event"] == "image.ordered"]


def _errors(instance: Instance) -> list[dict[str, Any]]:
    return [event for event in instance.events() if event["event"] == "agent.error"]


@pytest.fixture
def door(instance: Instance) -> Iterator[Door]:
    """The agent of an instance whose nodes have a key."""
    port, key = free_port(), os.urandom(32)
    file = instance.config.parent / "cluster.key"
    file.write_bytes(key)
    file.chmod(0o600)
    before = instance.config.read_text()
    told = len(_errors(instance)) if instance.events_file.exists() else 0  # by tests that came before
    try:
        instance.configure(f'[nodes]\nsign_with = "key"\nport = {port}\n')
        assert works(instance)
        opened = Door(instance, port, KeySigner(key))
        wait_until("it listens", lambda: b"LISTEN" in _sockets(port))
        yield opened
        assert opened.ask()["state"] == "none"
        assert is_healthy(instance)
        assert _errors(instance)[told:] == []
    finally:
        file.unlink()
        instance.configure(before)


def _sockets(port: int) -> bytes:
    for table in ("tcp6", "tcp"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A":
                return b"LISTEN"
    return b""


def test_forged_edited_and_foreign_words(door: Door) -> None:
    """Whoever cannot sign hears nothing: another key, each byte changed, another's signature on these words, an answer or a
    ticket sent as a question, and nonsense."""
    genuine = request_line(door.signer, door.request()).decode().strip()
    stranger = KeySigner(os.urandom(32))
    other = request_line(door.signer, door.request(job="8.s")).decode().strip()
    like = {"v": 1, "op": "job", "job": "7.s", "from": "n2", "to": _NODE, "at": time.time(), "nonce": "n"}
    ticket = json.dumps({**like, "kind": "ticket"}).encode()
    forged = [
        request_line(stranger, door.request()).decode().strip(),
        genuine.rpartition(".")[0] + "." + other.rpartition(".")[2],
        genuine.rpartition(".")[0],
        "m1" + genuine[2:],
        answer_line(door.signer, door.request(), {"alive": False}).decode().strip(),
        door.signer.sign(ticket),
        "",
        "GET / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\x00",
        "\0" * 100,
    ]
    for place in random.sample(range(len(genuine)), int(seconds(60, len(genuine)))):
        wrong = random.choice([one for one in string.ascii_letters + string.digits + "._-" if one != genuine[place]])
        forged.append(genuine[:place] + wrong + genuine[place + 1 :])
    for text in forged:
        time.sleep(0.04)  # below the rate of an address: what is tested is the signature
        assert door.said(text.encode() + b"\n") == b"", text
    assert door.said(genuine.encode() + b"\n").startswith(b"k1.")
    assert "signature does not hold" in door.refused()[-1]["reason"]


def test_replayed_old_and_for_another_node(door: Door) -> None:
    """Genuine words count once, in their time, and at the node they were meant for."""
    line = request_line(door.signer, door.request())
    assert door.said(line).startswith(b"k1.")
    assert door.said(line) == b""
    assert "heard before" in door.refused()[-1]["reason"]
    for off in (-901.0, -86400.0, 901.0, 1e300, float("nan")):
        assert door.said(request_line(door.signer, door.request(at=time.time() + off))) == b"", off
    assert "by its clock; up to 900 s" in door.refused()[-1]["reason"]
    for off in (-600.0, 600.0):
        assert door.said(request_line(door.signer, door.request(at=time.time() + off))).startswith(b"k1."), off
    for name in ("n2", f"{_NODE}x", "no-such-host.invalid", "", "192.0.2.1"):
        assert door.said(request_line(door.signer, door.request(to=name))) == b"", name
    assert f"it is for 192.0.2.1, not for {_NODE}" in door.refused()[-1]["reason"]
    for name in (_NODE, f"{_NODE}.example.org", _NODE.upper()):
        assert door.said(request_line(door.signer, door.request(to=name))).startswith(b"k1."), name


def test_an_order_heard_twice(door: Door) -> None:
    """The one thing that the channel can be asked to do: once, by who can sign, and nothing that policy forbids."""
    fields = {"image": IMAGE, "order": os.urandom(16).hex()}
    before = len(_orders(door.instance))
    line = request_line(door.signer, door.request(op="pull", job="", fields=fields))
    assert door.said(line) != b""
    assert door.said(line) == b""
    assert door.said(request_line(KeySigner(os.urandom(32)), door.request(op="pull", job="", fields=fields))) == b""
    told = ask(door.signer, _NODE, door.port, "pull", "", timeout_s=5, **fields)
    assert told["state"] in ("pulling", "done")
    bad = ask(door.signer, _NODE, door.port, "pull", "", timeout_s=5, image="A b", order=os.urandom(16).hex())

    assert (bad["state"], bad["code"]) == ("refused", "bad-image")
    assert len(_orders(door.instance)) == before + 1
    reasons = [event["reason"] for event in door.refused()]
    assert "it was heard before" in reasons


def test_huge_lines(door: Door) -> None:
    """Without an end, or with it one byte too late: cut off there, whatever else is sent."""
    before = _private(door.worker)
    for data in (b"A" * MOST_LINE, b"k1." + b"A" * MOST_LINE + b"\n", b"k1.A.A" * (4 << 20), b"\n" * (1 << 20)):
        for _ in range(8):
            assert door.said(data) == b""
    assert _private(door.worker) - before < 4 << 20
    assert "too long" in " ".join(event["reason"] for event in door.refused())


def test_half_open_clients_of_a_user(door: Door) -> None:
    """As many as can be had, silent or with a byte now and then: other agents are answered at once, each is let go."""
    with begin_as(
        door.instance,
        """
        port, held, closed = int(sys.argv[2]), [], 0
        until = time.monotonic() + float(sys.argv[3])
        while time.monotonic() < until:
            while len(held) < 200:
                try:
                    one = socket.create_connection(("localhost", port), 1)
                    one.setblocking(False)
                    held.append(one)
                except OSError:
                    break
            print("full", flush=True)
            for one in [*held]:
                try:
                    if random.random() < 0.5:
                        one.send(b"k")
                    if not one.recv(10):
                        raise ConnectionError
                except BlockingIOError:
                    continue
                except OSError:
                    closed += 1
                    held.remove(one)
            time.sleep(0.05)
        print("closed", closed, flush=True)
        """,
        str(door.port),
        str(seconds(12, 60)),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        slowest, deadline = 0.0, time.monotonic() + seconds(8, 50)
        while time.monotonic() < deadline:
            began = time.monotonic()
            assert door.ask()["state"] == "none"
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.1)
        assert works(door.instance)
        said, wrong = process.communicate(timeout=120)
    assert wrong == ""
    assert slowest < 2.0
    assert int(said.splitlines()[-1].split()[1]) > 50
    assert len(_descriptors(door.worker)) < 100


def test_silent_and_slow_clients_of_a_user_are_let_go(door: Door) -> None:
    """After five seconds, whether they say nothing or a byte now and then."""
    said = as_user(
        door.instance,
        """
        began, left = time.monotonic(), []
        for _ in range(8):
            left.append(socket.create_connection(("localhost", int(sys.argv[2])), 1))
            left[-1].setblocking(False)
        while left and time.monotonic() < began + 30:
            for index, one in enumerate([*left]):
                try:
                    if index % 2:
                        one.send(b"k")
                    if one.recv(10):
                        print("answered")
                    raise ConnectionError
                except BlockingIOError:
                    continue
                except OSError:
                    left.remove(one)
                    print(round(time.monotonic() - began, 1))
            time.sleep(0.2)
        """,
        str(door.port),
    )
    assert len(said) == 8
    assert all(4.0 < float(after) < 9.0 for after in said)


def test_floods_of_a_user(door: Door) -> None:
    """Connections as fast as can be, with forged lines: other agents are answered, jobs run, the event log stays small."""
    size = door.instance.events_file.stat().st_size
    before = len(door.refused())
    code = """
        port, count, until = int(sys.argv[2]), 0, time.monotonic() + float(sys.argv[3])
        while time.monotonic() < until:
            try:
                with socket.create_connection(("localhost", port), 1) as one:
                    one.sendall(b"k1." + b"A" * random.choice([10, 1000, 60000]) + b".B\\n")
                    assert not one.recv(10)
            except ConnectionError:
                pass
            except OSError:
                continue
            count += 1
        print(count)
    """
    floods = [begin_as(door.instance, code, str(door.port), str(seconds(8, 60))) for _ in range(3)]
    try:
        asked, deadline = 0, time.monotonic() + seconds(6, 50)
        while time.monotonic() < deadline:
            assert door.ask()["state"] == "none"
            asked += 1
            time.sleep(0.05)
        assert works(door.instance)
    finally:
        said = [process.communicate(timeout=120) for process in floods]
    assert [wrong for _, wrong in said] == [""] * 3
    assert sum(int(out) for out, _ in said) > 200
    assert asked > 10
    assert len(door.refused()) - before <= 20 + seconds(8, 60) / 15 + 2
    assert door.instance.events_file.stat().st_size - size < 64 << 10


def test_answers_that_nobody_reads(door: Door) -> None:
    """Even those of root of another node, which do not read: the next one is answered, and they are let go."""
    held = []
    for _ in range(6):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((_NODE, door.port))
        connection.sendall(request_line(door.signer, door.request()))
        held.append(connection)
    began = time.monotonic()
    assert door.ask()["state"] == "none"
    assert time.monotonic() - began < 2
    wait_until("they are let go", lambda: not _established(door.port), 15)
    for connection in held:
        connection.close()


def test_a_user_reads_no_key(door: Door) -> None:
    """Neither the file nor anything of the agent's environment or arguments."""
    key = (door.instance.config.parent / "cluster.key").read_bytes()
    with begin_as(door.instance, "print(open(sys.argv[2], 'rb').read())", str(door.instance.config.parent / "cluster.key")) as process:  # fmt: skip
        _, wrong = process.communicate(timeout=60)
    assert "PermissionError" in wrong
    for name in ("cmdline", "environ"):
        assert key not in Path(f"/proc/{door.worker}/{name}").read_bytes()
    assert key.hex() not in door.instance.events_file.read_text()


def test_a_job_on_its_node(door: Door) -> None:
    """What it is all for: root of another node hears of a job that runs here; `ps --job` shows it, and who is silent."""
    trial = door.instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 60\n")
    job = trial.job_id
    wait_until("it runs", lambda: ask(door.signer, _NODE, door.port, "job", job, timeout_s=5)["state"] == "running")
    told = ask(door.signer, _NODE, door.port, "job", job, timeout_s=5)
    shown = door.instance.command("ps", "--job", job.split(".")[0])
    as_json = json.loads(door.instance.command("ps", "--job", job, "--json").stdout)
    trial.qdel()
    trial.finish(trial.wait())

    assert (told["node"], told["alive"], told["exit"]) == (_NODE, True, None)
    assert told["usage"]["memory_peak_bytes"] > 0
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split()[:2] == [_NODE[:20], "running"]
    assert as_json["nodes"][0]["image"] == told["image"]
    assert door.instance.command("ps", "--job", "99999").returncode == 1


def _private(pid: int) -> int:
    """Bytes of a process's own memory."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Private"))


def _descriptors(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")


def _established(port: int) -> bool:
    """Whether the agent's end of a connection is open."""
    done = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows if ":" in row[1])
