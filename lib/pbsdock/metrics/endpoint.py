"""Metrics by HTTP, on a loopback address or a unix socket, for whoever scrapes this node.

Every user of the node can reach a loopback address, so an answer is kept for a second, connections are few, and whoever
asks faster than any Prometheus is hung up on.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from email.message import Message
from http.client import HTTPException, parse_headers
from socketserver import BaseRequestHandler
from typing import Any

from pbsdock.core.rates import Rates
from pbsdock.host.loopback import BoundedServer, BoundedUnixServer

Text = Callable[[str], tuple[bytes, str]]  # Accept header -> body, content type

_AT_ONCE = 32
_OF_ONE_USER = 2
_REQUEST_S = 5.0  # until it has come, and until its answer has been taken
_MOST_HEAD = 8192  # bytes; a Prometheus sends some 300
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


class _Handler(BaseRequestHandler):
    """One request a connection. The standard library's handler takes megabytes of headers, at any pace."""

    server: MetricsServer | MetricsUnixServer

    def handle(self) -> None:
        """Answer a scrape; a client that is too slow, or says too much, is hung up on."""
        try:
            request, headers = parse(self._head())
        except (ValueError, OSError):
            return
        if request != b"GET /metrics":
            self._send("404 Not Found", b"metrics are at /metrics\n", "text/plain")
            return
        self._send("200 OK", *self.server.answers.get(headers.get("Accept", "")))

    def _head(self) -> bytes:
        """The request up to its empty line. Raises OSError, ValueError."""
        deadline = time.monotonic() + _REQUEST_S
        data = b""
        while b"\r\n\r\n" not in data:
            self.request.settimeout(max(0.001, deadline - time.monotonic()))
            more = self.request.recv(_MOST_HEAD)
            data += more
            if not more or len(data) > _MOST_HEAD:
                raise ValueError("no request")
        return data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def _send(self, status: str, body: bytes, content_type: str) -> None:
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        )
        self.request.settimeout(_REQUEST_S)  # of all of it (socket.sendall)
        self.request.sendall(head.encode() + b"\r\n" + body)


def parse(head: bytes) -> tuple[bytes, Message]:
    """Method and path without its query, and the headers. Raises ValueError for what is no request."""
    line, _, rest = head.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        raise ValueError("no request of HTTP")
    try:
        headers = parse_headers(io.BytesIO(rest))
    except HTTPException as error:
        raise ValueError(str(error)) from None
    return words[0] + b" " + words[1].partition(b"?")[0], headers


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
