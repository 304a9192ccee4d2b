"""A registry that lies: one image of one layer, served wrongly in a chosen way."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import secrets
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass
class Lie:
    """What is done: ``digest`` sends other bytes, ``crawl``, ``stall`` and ``endless`` what they say.

    ``429`` and ``503`` answer so to *turned_away* questions for the manifest, with Retry-After, and then do not lie.
    """

    way: str
    address: str = ""
    sent: int = 0
    turned_away: int = 0
    retry_after_s: int = 0
    at: list[float] = field(default_factory=list)  # when the manifest was asked for
    hung_up: threading.Event = field(default_factory=threading.Event)  # the engine has closed a layer's connection


def _layer() -> bytes:
    """One that no engine has had before: it would not ask for it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(f"empty-{secrets.token_hex(8)}"), io.BytesIO())
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextmanager
def lying_registry(way: str, *, turned_away: int = 0, retry_after_s: int = 0) -> Iterator[Lie]:
    """Serve ``ADDRESS/lie:1`` on loopback."""
    lie = Lie(way, turned_away=turned_away, retry_after_s=retry_after_s)
    tar = _layer()
    packed = gzip.compress(tar)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": len(config),
                "digest": _digest(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    "size": len(packed) if way.isdigit() else 64 << 20,
                    "digest": _digest(packed),
                }
            ],
        }
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, body: bool) -> None:
            if "/manifests/" in self.path:
                lie.at.append(time.monotonic())
                if lie.turned_away > 0:
                    lie.turned_away -= 1
                    self._turn_away()
                    return
            if self.path.endswith(_digest(packed)) and not lie.way.isdigit():
                if body:
                    self._lie()
                return
            data = (
                packed
                if self.path.endswith(_digest(packed))
                else config
                if self.path.endswith(_digest(config))
                else manifest
                if "/manifests/" in self.path
                else b"{}"
            )
            self.send_response(200)
            self.send_header("Content-Type", _MANIFEST if data is manifest else "application/json")
            self.send_header("Docker-Content-Digest", _digest(data))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _turn_away(self) -> None:
            self.send_response(int(lie.way))
            self.send_header("Retry-After", str(lie.retry_after_s))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _lie(self) -> None:
            self.close_connection = True
            other = gzip.compress(b"other bytes")
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            if lie.way == "digest":
                self.send_header("Content-Length", str(len(other)))
            self.send_header("Connection", "close")
            self.end_headers()
            pieces = {
                "digest": (other, 0.0, 1),
                "crawl": (b"x", 0.1, 10**9),
                "stall": (b"x" * 4096, 3600.0, 10**9),
                "endless": (b"x" * 65536, 0.01, 10**9),
            }[lie.way]
            piece, pause, count = pieces
            try:
                for _ in range(count):
                    self.wfile.write(piece)
                    lie.sent += len(piece)
                    deadline = time.monotonic() + pause
                    while time.monotonic() < deadline:
                        self.connection.settimeout(min(0.1, pause))
                        try:
                            if not self.connection.recv(1):
                                raise BrokenPipeError
                        except TimeoutError:
                            continue
            except OSError:
                lie.hung_up.set()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    lie.address = f"127.0.0.1:{server.server_address[1]}"
    try:
        yield lie
    finally:
        server.shutdown()
        server.server_close()
