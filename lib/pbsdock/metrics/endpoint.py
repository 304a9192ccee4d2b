"""Metrics by HTTP, on a loopback address or a unix socket, for whoever scrapes this node.

Every user of the node can reach a loopback address, so an answer is kept for a second, connections are few, and whoever
asks faster than any Prometheus is hung up on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from pbsdock.core.rates import Rates
from pbsdock.host.loopback import BoundedServer, BoundedUnixServer

Text = Callable[[str], tuple[bytes, str]]  # Accept header -> body, content type

_AT_ONCE = 8
_OF_ONE_USER = 2
_REQUEST_S = 5.0
_KEPT_S = 1.0
_BURST, _PER_SECOND = 20, 5.0  # connections of one user
_REFUSED_S = 0.01  # what a connection too many costs whoever makes it, and the thread that refuses it
_OPEN_METRICS = "application/openmetrics-text"


class _Answers:
    """The last answer of each format."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._kept: dict[bool, tuple[float, tuple[bytes, str]]] = {}
        self._lock = threading.Lock()

    def get(self, accept: str) -> tuple[bytes, str]:
        is_open_metrics = _OPEN_METRICS in accept
        with self._lock:
            made, answer = self._kept.get(is_open_metrics, (0.0, (b"", "")))
            if not made or time.monotonic() - made > _KEPT_S:
                answer = self._text(_OPEN_METRICS if is_open_metrics else "")
                self._kept[is_open_metrics] = (time.monotonic(), answer)
            return answer


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer | MetricsUnixServer
    timeout = _REQUEST_S
    server_version, sys_version = "pbsdock", ""

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        body, content_type = self.server.answers.get(self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the base class would write to stderr."""


class _Turns:
    """Whether a user's next connection is served."""

    def __init__(self) -> None:
        self._rates = Rates()

    def admit(self, uid: int | None) -> bool:
        if self._rates.take(uid, _BURST, _PER_SECOND):
            return True
        time.sleep(_REFUSED_S)
        return False


class MetricsServer(BoundedServer):
    """On a loopback address. Raises OSError if it is taken."""

    thread_name = "metrics-http"

    def __init__(self, address: tuple[str, int], text: Text) -> None:
        self.answers, self._turns = _Answers(text), _Turns()
        super().__init__(address, _Handler, at_once=_AT_ONCE, of_one_user=_OF_ONE_USER)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Not from whoever asks too often."""
        return self._turns.admit(self.uid_of(request, client_address))


class MetricsUnixServer(BoundedUnixServer):
    """On a unix socket, for root and *group*. Raises OSError; KeyError for a group that does not exist."""

    thread_name = "metrics-http"

    def __init__(self, path: str, text: Text, group: str) -> None:
        self.answers, self._turns = _Answers(text), _Turns()
        super().__init__(path, _Handler, group=group, at_once=_AT_ONCE, of_one_user=_OF_ONE_USER)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Not from whoever asks too often."""
        return self._turns.admit(self.uid_of(request, client_address))


def serve(listen: str, group: str, text: Text) -> MetricsServer | MetricsUnixServer:
    """Serve at *listen*, as the configuration spells it. Raises OSError; KeyError for a group that does not exist."""
    server: MetricsServer | MetricsUnixServer
    if listen.startswith("/"):
        server = MetricsUnixServer(listen, text, group)
    else:
        host, _, port = listen.rpartition(":")
        server = MetricsServer((host.strip("[]"), int(port)), text)
    server.start()
    return server
