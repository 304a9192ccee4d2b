"""Docker's real clients on this machine, and a made-up engine for them to ask: answers in JSON, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

API = "1.41"


def clients() -> list[str]:
    """The programs: the first on the PATH, and Debian's where it is another."""
    found = [shutil.which("docker"), "/usr/bin/docker", "/usr/local/bin/docker"]
    paths = dict.fromkeys(path for path in found if path and os.path.exists(path))
    return [path for path in paths if b"ELF" in Path(path).read_bytes()[:4]]


def run_client(program: str, *words: str, host: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a real client that knows no configuration."""
    environment = {"PATH": os.defpath, "HOME": "/nonexistent", "TZ": "UTC", **(env or {})}
    if host:
        environment["DOCKER_HOST"] = host
    done = subprocess.run(
        [program, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Mapping[str, Any] = {}
    asked: ClassVar[list[tuple[str, Any]]] = []

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """A socket file's client has no address."""
        return "client"

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        path = path[len(f"/v{API}") :] if path.startswith("/v1.") else path
        if length := int(self.headers.get("Content-Length") or 0):
            self.asked.append((path, json.loads(self.rfile.read(length))))
        if path == "/_ping":
            status, body = 200, b"OK"
        elif path in self.answers:
            status, body = 200, json.dumps(self.answers[path]).encode()
        else:
            status, body = 404, json.dumps({"message": f"No such object: {path}"}).encode()
        self.send_response(status)
        self.send_header("Api-Version", API)
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = _answer


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def made_up_engine(
    directory: Path, answers: Mapping[str, Any], asked: list[tuple[str, Any]] | None = None
) -> Iterator[str]:
    """Serve *answers* by path on a socket in *directory*; yields the value of DOCKER_HOST.

    (path, body) of every request with a body is put into *asked*.
    """
    socket = directory / "engine.sock"
    server = _Server(
        str(socket), type("Handler", (_Handler,), {"answers": answers, "asked": [] if asked is None else asked})
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"unix://{socket}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
