"""The relay of etc/rsyslog.d with real rsyslogds: thirty-two emulated nodes into one file, over TLS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from pbsdock.admin.cli import main
from pbsdock.events.stream import EventStream
from tests.conftest import ROOT, wait_until
from tests.support.ports import free_port

_NODES, _EVENTS = 32, 20
_HOSTS = {"collector": "logs.example.org", "node": "n1.nodes.example.org", "stranger": "n1.elsewhere.example.org"}


def _openssl(*arguments: str, work: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=work, check=True, capture_output=True, timeout=60)


def _certificates(work: Path) -> None:
    """An authority, and what it has signed for the collector, a node, and a host that is none."""
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    _openssl(*new, "-subj", "/CN=site", "-keyout", "ca.key", "-out", "ca.pem", work=work)
    for name, host in _HOSTS.items():
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName=DNS:{host}", "-subj", f"/CN={host}"]
        usage = ["-addext", "basicConstraints=critical,CA:FALSE"]
        _openssl(*new, *signed, *usage, "-keyout", f"{name}.key", "-out", f"{name}.pem", work=work)


class Relay:
    """A collector and a sender with the configurations of etc/, of which places alone are exchanged."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.port = free_port()
        self.site = work / "site.jsonl"
        _certificates(work)

    def start(self, stack: ExitStack, name: str) -> None:
        text = (ROOT / f"etc/rsyslog.d/pbsdock-{name}.conf").read_text()
        places = {
            "/etc/pbsdock/syslog": str(self.work),
            '"6514"': f'"{self.port}"',
            'target="logs.example.org"': 'target="127.0.0.1"',
            "/var/log/pbsdock/events.jsonl": f"{self.work}/nodes/*/events.jsonl",
            "/var/log/pbsdock/site.jsonl": str(self.site),
            'action.resumeInterval="10"': 'action.resumeInterval="1"',
        }
        for place, ours in places.items():
            text = text.replace(place, ours)
        (self.work / f"{name}.spool").mkdir()
        config = self.work / f"{name}.conf"
        config.write_text(f'global(workDirectory="{self.work}/{name}.spool")\n{text}')
        subprocess.run(["rsyslogd", "-N1", "-f", config], check=True, capture_output=True, timeout=30)
        process = subprocess.Popen(
            ["rsyslogd", "-n", "-f", config, "-i", self.work / f"{name}.pid"],
            stdout=(self.work / f"{name}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)

    def lines(self) -> list[str]:
        return self.site.read_text().splitlines() if self.site.exists() else []

    def connect(self, kind: str) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if kind == "in the clear":
            return plain
        context = ssl.create_default_context(cafile=str(self.work / "ca.pem"))
        if kind == "another name":
            context.load_cert_chain(self.work / "stranger.pem", self.work / "stranger.key")
        return context.wrap_socket(plain, server_hostname=_HOSTS["collector"])

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with ExitStack() as stack:
        found = Relay(tmp_path)
        found.start(stack, "collector")
        wait_until("the collector listens", found.listens)
        (tmp_path / "nodes").mkdir()
        for number in range(_NODES):
            (tmp_path / f"nodes/n{number}").mkdir()
        found.start(stack, "node")
        yield found


def test_all_nodes_in_one_file(relay: Relay, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line of every node once and as it was, long ones and those around a rotation; and it is read as a stream."""
    files = [relay.work / f"nodes/n{number}/events.jsonl" for number in range(_NODES)]
    streams = [EventStream(file, node=f"n{number}", max_field=32000) for number, file in enumerate(files)]
    written: list[str] = []

    def emit(half: int) -> None:
        for number, stream in enumerate(streams):
            for job in range(half * _EVENTS // 2, (half + 1) * _EVENTS // 2):
                stream.emit(
                    "job.refused", job=f"{number}{job}.srv", user=f"u{number % 4}", code="x", sentence="no % $!msg!"
                )
        streams[0].emit("job.refused", code="x", sentence="é" * 5000)  # 30,000 bytes once it is ASCII

    emit(0)
    wait_until("the first half is there", lambda: len(relay.lines()) == _NODES * _EVENTS // 2 + 1)
    for file in files:
        written += file.read_text().splitlines()
        file.rename(file.with_name("events.jsonl.1"))
    emit(1)
    written += [line for file in files for line in file.read_text().splitlines()]
    wait_until("the second half is there", lambda: len(relay.lines()) >= len(written))

    assert sorted(relay.lines()) == sorted(written)
    assert relay.site.stat().st_mode & 0o777 == 0o640
    assert main(["events", "--file", str(relay.site), "--summary", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["nodes"], told["refusals"]) == (_NODES, {"x": _NODES * _EVENTS + 2})
    assert main(["events", "--file", str(relay.site), "--json", "--node", "n7", "--user", "u3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == _EVENTS


@pytest.mark.parametrize("kind", ["in the clear", "no certificate", "another name"])
def test_nobody_else_is_listened_to(relay: Relay, kind: str) -> None:
    """Not in the clear, nor without a certificate, nor with one of the same authority for a host that is no node."""
    message = b'<134>1 - n1 pbsdock - - - {"event":"forged"}'
    for _ in range(5):
        with suppress(OSError), relay.connect(kind) as connection:  # the collector hangs up
            connection.sendall(b"%d %s" % (len(message), message))
            connection.settimeout(1)
            connection.recv(1)
    EventStream(relay.work / "nodes/n1/events.jsonl", node="n1").emit("engine.back")
    wait_until("what is allowed comes", lambda: bool(relay.lines()))

    assert [json.loads(line)["event"] for line in relay.lines()] == ["engine.back"]
