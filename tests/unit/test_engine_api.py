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

_LEAST, _MOST = (1, 44), (1, 52)


class FakeEngineOfToday(socketserver.ThreadingUnixStreamServer):
    """Answers pings and GET /info, and refuses versions outside 1.44 to 1.52 in Docker's words."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.is_well = True
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
            self._answer(200, {"Architecture": "x86_64"} if path == "/info" else "OK")

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
