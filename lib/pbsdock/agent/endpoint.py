"""Where clients in containers get their job's sessions by themselves, anew before they end.

The endpoint of the AWS SDKs' container credential provider: a GET on a loopback address, with a token from a file only
the job's user can read. Whoever asks must also be that user, as the kernel's table of connections says: a token that
was caught by somebody else is worth nothing to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from pbsdock.agent.sessions import Sessions
from pbsdock.host.loopback import BoundedServer

if TYPE_CHECKING:
    from pbsdock.stores.secret import Secret

_AT_ONCE = 64
_OF_ONE_USER = 16
_REQUEST_S = 5.0

Answer = Callable[[str, str], "Secret | None"]  # incarnation, store -> session; raises Refusal


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    timeout = _REQUEST_S
    server_version, sys_version = "pbsdock", ""

    def do_GET(self) -> None:
        """Answer a client of a container's."""
        owner = self.server.sessions.owner(self.headers.get("Authorization", ""))
        uid = self.server.uid_of(self.connection, self.client_address)
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


class Endpoint(BoundedServer):
    """The endpoint. Raises OSError if the port is somebody else's."""

    thread_name = "sessions"

    def __init__(self, port: int, sessions: Sessions, answer: Answer) -> None:
        super().__init__(("127.0.0.1", port), _Handler, at_once=_AT_ONCE, of_one_user=_OF_ONE_USER)
        self.sessions = sessions
        self.answer = answer
