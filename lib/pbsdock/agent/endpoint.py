"""Where clients in containers get their job's sessions by themselves, anew before they end.

The endpoint of the AWS SDKs' container credential provider: a GET on a loopback address, with a token from a file only
the job's user can read. Whoever asks must also be that user, as the kernel's table of connections says: a token that
was caught by somebody else is worth nothing to them.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pbsdock.agent.sessions import Sessions

if TYPE_CHECKING:
    from pbsdock.stores.secret import Secret

_AT_ONCE = 64
_OF_ONE_USER = 16
_REQUEST_S = 5.0
_LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F")  # 127.0.0.1, and the same of an IPv6 socket

Answer = Callable[[str, str], "Secret | None"]  # incarnation, store -> session; raises Refusal


def peer_uid(table: str, client_port: int, server_port: int) -> int | None:
    """The user of the client's end of a loopback connection, from the text of /proc/net/tcp and tcp6 (proc(5)); None if
    it is in neither."""
    wanted = [(f"{address}:{client_port:04X}", f"{address}:{server_port:04X}") for address in _LOOPBACK]
    for line in table.splitlines():
        fields = line.split()
        if tuple(fields[1:3]) in wanted:
            return int(fields[7])
    return None


def _tables() -> str:
    found = ""
    for name in ("tcp", "tcp6"):
        try:
            found += Path(f"/proc/net/{name}").read_text(encoding="ascii")
        except FileNotFoundError:
            continue  # a node without IPv6
    return found


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    timeout = _REQUEST_S
    server_version, sys_version = "pbsdock", ""

    def do_GET(self) -> None:
        """Answer a client of a container's."""
        owner = self.server.sessions.owner(self.headers.get("Authorization", ""))
        uid = peer_uid(_tables(), self.client_address[1], self.server.server_port)
        if owner is None or owner[1] != uid:
            self._send(403, {"message": "this token is not yours"})
            return
        try:
            secret = self.server.answer(owner[0], self.path.strip("/"))
        except Exception:  # the client tries again; what was wrong is an event
            self._send(503, {"message": "no session can be had at the moment"})
            return
        if secret is None:
            self._send(404, {"message": "this job has no such store"})
            return
        ends = datetime.fromtimestamp(secret.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if secret.expires else None
        found = {"AccessKeyId": secret.access_key, "SecretAccessKey": secret.secret_key, "Token": secret.token}
        self._send(200, {key: value for key, value in {**found, "Expiration": ends}.items() if value is not None})

    def _send(self, status: int, body: Mapping[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the base class would write to stderr."""


class Endpoint(ThreadingHTTPServer):
    """The endpoint; a connection too many is closed. Raises OSError if the port is somebody else's."""

    daemon_threads = True
    # With the base class's 5, the SYN of the sixth at once is lost and sent again after a second.
    request_queue_size = 128

    def __init__(self, port: int, sessions: Sessions, answer: Answer) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.sessions = sessions
        self.answer = answer
        self._free = threading.Semaphore(_AT_ONCE)
        self._open: Counter[int | None] = Counter()  # by user
        self._lock = threading.Lock()

    def server_bind(self) -> None:
        """Bind, without the look-up of a host name that the base class makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it, if there are not too many, of this user or of all."""
        uid = peer_uid(_tables(), client_address[1], self.server_port)
        with self._lock:
            granted = self._open[uid] < _OF_ONE_USER and self._free.acquire(blocking=False)
            self._open[uid] += granted
        if granted:
            super().process_request(request, (client_address, uid))
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection; its address comes with the user from the method above."""
        address, uid = client_address
        try:
            super().process_request_thread(request, address)
        finally:
            self._free.release()
            with self._lock:
                self._open[uid] -= 1
                if not self._open[uid]:
                    del self._open[uid]

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that went away is no news."""

    def start(self) -> None:
        """Serve from now on."""
        threading.Thread(target=self.serve_forever, name="sessions", daemon=True).start()
