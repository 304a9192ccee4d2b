"""HTTP to the engine's unix socket for the calls every job makes: kept-alive connections, and streams taken over.

The SDK serves what is rare or long (pulls, events). Its transport costs three times the CPU time of these, it keeps a
connection for each address it has asked, such as an exec's, and it cannot hand over a stream: its buffered reader may
swallow the first bytes.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable

from pbsdock.core.waiting import readable

_KEPT = 16  # idle connections: a rush must not cost the engine descriptors for ever after


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    @property
    def alive(self) -> bool:
        """Whether it can be used again: an idle connection with something to read is one the engine has closed."""
        return self.sock is not None and not readable(self.sock.fileno(), 0.0)


class Pool:
    """Connections to one engine; any thread may ask."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()

    def ask(self, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request and its whole answer: status and body. Raises OSError or http.client.HTTPException."""
        status, _header, content = self.fetch(method, target, body)
        return status, content

    def fetch(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        header: str = "",
        accept: Callable[[str], bool] = lambda value: True,
    ) -> tuple[int, str, bytes]:
        """The same with the value of one header; a body whose header *accept* does not take is left unread."""
        connection = self._take()
        try:
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            value = answer.getheader(header, "") if header else ""
            if answer.status < 400 and not accept(value):
                connection.close()
                return answer.status, value, b""
            content = answer.read()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            is_kept = not answer.will_close and len(self._idle) < _KEPT
            if is_kept:
                self._idle.append(connection)
        if not is_kept:
            connection.close()
        return answer.status, value, content

    def begin(self, method: str, target: str, most_bytes: int) -> tuple[int, bytes]:
        """One request and how its answer begins: status and body. Raises OSError or http.client.HTTPException."""
        connection = _Connection(self.path, self.timeout_s)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read(most_bytes)
        finally:
            connection.close()

    def _take(self) -> _Connection:
        while True:
            with self._lock:
                if not self._idle:
                    return _Connection(self.path, self.timeout_s)
                connection = self._idle.pop()
            if connection.alive:
                return connection
            connection.close()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def take_over(path: str, timeout_s: float, target: str, body: bytes) -> tuple[int, str, socket.socket]:
    """Ask for a stream; returns status, the error's text, and the socket just past the HTTP header. Raises OSError."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout_s)
        stream.connect(path)
        stream.sendall(
            f"POST {target} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        status, text = _read_head(stream)
        stream.settimeout(None)
    except BaseException:
        stream.close()
        raise
    return status, text, stream


def _read_head(stream: socket.socket) -> tuple[int, str]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        peeked = stream.recv(4096, socket.MSG_PEEK)
        if not peeked:
            raise OSError("the engine closed the connection")
        end = (head[-3:] + peeked).find(b"\r\n\r\n")
        take = len(peeked) if end < 0 else end + 4 - len(head[-3:])
        head += stream.recv(take)
        if len(head) > 65536:
            raise OSError("the engine's answer has no end")
    status = int(head.split(b" ", 2)[1])
    if status in (101, 200):
        return status, ""
    stream.settimeout(1.0)
    try:
        return status, stream.recv(4096).decode("utf-8", "replace").strip()
    except OSError:
        return status, ""
