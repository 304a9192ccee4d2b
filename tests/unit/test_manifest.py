"""How large an image is in its registry: the rules of tokens and of images for several machines, and what ends it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pbsdock.engine.manifest import layers_bytes

_MANIFEST = {"layers": [{"size": 100}, {"size": 23}]}
_DIGEST = "sha256:" + "1" * 64
_INDEX = {
    "manifests": [
        {"digest": "sha256:" + "2" * 64, "platform": {"architecture": "arm64", "os": "linux"}},
        {"digest": _DIGEST, "platform": {"architecture": "amd64", "os": "linux"}},
    ]
}


@contextmanager
def _registry(answers: dict[str, Any], *, challenge: str = "", accepts: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serves *answers* by path; with a *challenge* only to who has an Authorization that *accepts*."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(self.path)
            given = self.headers.get("Authorization", "")
            is_open = not challenge or path == "/token" or given == accepts
            body = answers.get(path) if is_open else b""
            if path == "/token":
                body = {"token": f"for {base64.b64decode(given.partition(' ')[2]).decode()}"}
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(401 if not is_open else 404 if body is None else 200)
            if not is_open:
                self.send_header("WWW-Authenticate", challenge.replace("HERE", self.headers["Host"]))
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_the_layers_are_added_up() -> None:
    """Of the image for this machine, where there are several."""
    answers = {
        "/v2/a/b/manifests/1": _INDEX,
        f"/v2/a/b/manifests/{_DIGEST}": _MANIFEST,
        "/v2/c/manifests/latest": _MANIFEST,
    }
    with _registry(answers) as (address, _asked):
        assert layers_bytes(f"{address}/a/b:1", {}, "amd64") == 123
        assert layers_bytes(f"{address}/c", {}, "amd64") == 123
        assert layers_bytes(f"{address}/a/b:1", {}, "riscv64") is None


def test_a_password_goes_where_the_registry_asks_for_it() -> None:
    """And no other way; without a login there is nothing to be had."""
    basic = "Basic " + base64.b64encode(b"u:p").decode()
    with _registry({"/v2/a/manifests/1": _MANIFEST}, challenge='Basic realm="x"', accepts=basic) as (address, _asked):
        assert layers_bytes(f"{address}/a:1", {"username": "u", "password": "p"}, "amd64") == 123
        assert layers_bytes(f"{address}/a:1", {}, "amd64") is None


def test_a_token_is_fetched_without_a_login_alone_over_plain_http() -> None:
    """A password is not sent to an address in the clear, wherever the registry points."""
    challenge = 'Bearer realm="http://HERE/token",service="s",scope="repository:a:pull"'
    with _registry({"/v2/a/manifests/1": _MANIFEST}, challenge=challenge, accepts="Bearer for ") as (address, asked):
        assert layers_bytes(f"{address}/a:1", {}, "amd64") == 123
        assert asked[1] == "/token?service=s&scope=repository%3Aa%3Apull"
        asked.clear()
        assert layers_bytes(f"{address}/a:1", {"username": "u", "password": "p"}, "amd64") is None
        assert len(asked) == 1


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"layers": [{}]}', b'{"layers": "x"}', b'{"manifests": 5}', b"\xff"]
)
def test_what_makes_no_sense_is_not_known(answer: bytes) -> None:
    """And no error."""
    with _registry({"/v2/a/manifests/1": answer}) as (address, _asked):
        assert layers_bytes(f"{address}/a:1", {}, "amd64") is None


def test_a_registry_that_dribbles_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many seconds in all, whatever it still says."""
    monkeypatch.setattr("pbsdock.engine.manifest._WHOLE_S", 0.5)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                try:
                    self.wfile.write(b" ")
                    time.sleep(0.05)
                except OSError:
                    return

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        assert layers_bytes(f"127.0.0.1:{server.server_port}/a:1", {}, "amd64") is None
        assert time.monotonic() - began < 3
        server.shutdown()
