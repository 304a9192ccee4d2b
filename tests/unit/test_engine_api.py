"""The API version spoken with an engine, against a fake that serves versions as Docker 29 does."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pbsdock.engine.docker.api import Engine
from pbsdock.engine.docker.seccomp import profile
from tests.unit.test_rooms_engine import _SPEC

_LEAST, _MOST = (1, 44), (1, 52)


class FakeEngineOfToday(socketserver.ThreadingUnixStreamServer):
    """Answers pings and GET /info, makes containers, and refuses versions outside 1.44 to 1.52 in Docker's words."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.is_well = True
        self.version = "20.10.24"
        self.created: list[Any] = []
        super().__init__(str(path), Handler)


class Handler(BaseHTTPRequestHandler):
    server: FakeEngineOfToday
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        found = re.match(r"/v(\d+)\.(\d+)(/.*)", self.path)
        version, path = ((int(found[1]), int(found[2])), found[3]) if found else (_MOST, self.path)
        if not self.server.is_well:
            self._answer(500, {"message": "out of order"})
        elif version < _LEAST:
            least = ".".join(map(str, _LEAST))
            said = f"client version {version[0]}.{version[1]} is too old. Minimum supported API version is {least}"
            self._answer(400, {"message": said})
        elif path == "/version":
            self._answer(200, {"ApiVersion": "1.52", "MinAPIVersion": "1.44", "Components": []})
        else:
            info = {"Architecture": "x86_64", "ServerVersion": self.server.version, "SecurityOptions": ["name=seccomp"]}
            self._answer(200, info if path == "/info" else "OK")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.created.append(json.loads(body))
        self._answer(201, {"Id": "c"})

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: object) -> None:
        pass

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngineOfToday]:
    with FakeEngineOfToday(tmp_path / "s") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_fake_engine_that_starts_at_1_44(fake: FakeEngineOfToday, tmp_path: Path) -> None:
    """The probe names no version, calls the engine's own: nothing is refused as too old."""
    engine = Engine(str(tmp_path / "s"), 5.0)

    assert engine.probe()
    assert engine.info().architecture == "x86_64"
    assert fake.asked == ["/_ping", "/version", "/v1.52/info"]


def test_a_fake_engine_that_is_out_of_order(fake: FakeEngineOfToday, tmp_path: Path) -> None:
    """Its own words are told, and the first good answer closes the circuit."""
    engine = Engine(str(tmp_path / "s"), 5.0)
    fake.is_well = False
    assert not engine.probe()
    assert engine.down_because == "no sign of life: it answers 500: out of order"
    fake.is_well = True

    assert engine.probe()
    assert engine.down_because is None


def test_a_fake_engine_that_is_upgraded_gets_its_own_filter(fake: FakeEngineOfToday, tmp_path: Path) -> None:
    """What it allows by itself changes with its version, which is asked for whenever it was away."""
    engine = Engine(str(tmp_path / "s"), 5.0, seccomp="hpc")
    engine.create(_SPEC, "a")
    engine.create(_SPEC, "b")
    fake.version = "26.1.5"
    engine.info()  # as the agent asks when its stream of events has ended
    engine.create(_SPEC, "c")

    given = [body["HostConfig"]["SecurityOpt"][1].removeprefix("seccomp=") for body in fake.created]
    assert given == [profile("20.10.24"), profile("20.10.24"), profile("26.1.5")]
    assert profile("20.10.24") != profile("26.1.5")
