"""The hook's end of the agent's socket.

Only C modules are imported: ``socket`` and ``json`` together would double the start-up time of every hook.
"""

from __future__ import annotations

import _socket
import os
import time

from pbsdock.protocol import wire

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from typing import Any

AF_UNIX = 1
SOCK_STREAM = 1
_INT = 4


class AgentGone(Exception):
    """The agent closed the connection or cannot be reached."""


class BadAnswer(AgentGone):
    """The agent's answer cannot be taken: it is too long, or is none. Asking again would bring the same."""


class Link:
    """One connection; ``recv`` returns a message and the descriptors that came with it."""

    def __init__(self, path: str, timeout_s: float) -> None:
        # The C type is the documented socket class minus the Python wrapper, hence the Any.
        self.sock: Any = _socket.socket(AF_UNIX, SOCK_STREAM, 0)
        os.set_inheritable(self.sock.fileno(), False)
        self.sock.settimeout(timeout_s)
        self._buffer = b""
        self._fds: list[int] = []
        try:
            self.sock.connect(path)
        except OSError as error:
            self.close()
            raise AgentGone(str(error)) from None

    def fileno(self) -> int:
        """Return the descriptor, for poll."""
        return int(self.sock.fileno())

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def send(self, message: wire.Message) -> None:
        """Send one message whole; raises AgentGone."""
        try:
            self.sock.sendall(wire.encode(message))
        except OSError as error:
            raise AgentGone(str(error)) from None

    def recv(self) -> tuple[wire.Message, list[int]]:
        """Wait for one message; raises AgentGone at end of stream or time-out, BadAnswer."""
        while (message := self._taken()) is None:
            try:
                data, ancillary, _flags, _addr = self.sock.recvmsg(65536, 64)
            except OSError as error:
                raise AgentGone(str(error)) from None
            for level, kind, value in ancillary:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    for start in range(0, len(value) - _INT + 1, _INT):
                        fd = int.from_bytes(value[start : start + _INT], "little")
                        os.set_inheritable(fd, False)
                        self._fds.append(fd)
            if not data:
                raise AgentGone("the agent closed the connection")
            self._buffer += data
        try:
            count = message.number("fds")
        except wire.WireError as error:
            raise BadAnswer(str(error)) from None
        fds, self._fds = self._fds[:count], self._fds[count:]
        return message, fds

    def _taken(self) -> wire.Message | None:
        try:
            return self._take()
        except wire.WireError as error:
            raise BadAnswer(str(error)) from None

    def _take(self) -> wire.Message | None:
        if len(self._buffer) < wire.HEADER:
            return None
        size = wire.length(self._buffer[: wire.HEADER], wire.CLIENT_LIMIT)
        end = wire.HEADER + size
        if len(self._buffer) < end:
            return None
        message = wire.decode(self._buffer[wire.HEADER : end])
        self._buffer = self._buffer[end:]
        return message

    @property
    def pending(self) -> bool:
        """Whether a whole message is already buffered."""
        return len(self._buffer) >= wire.HEADER and len(self._buffer) >= wire.HEADER + int.from_bytes(
            self._buffer[: wire.HEADER], "big"
        )


def connect(path: str, *, wait_s: float, timeout_s: float) -> Link:
    """Connect, trying again for *wait_s* seconds (an agent that is restarting); raises AgentGone."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return Link(path, timeout_s)
        except AgentGone:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def pings(path: str, timeout_s: float) -> bool:
    """Whether there is an agent that answers, whatever became of one request."""
    try:
        link = Link(path, timeout_s)
        link.send(wire.Message("ping"))
        message, _fds = link.recv()
        link.close()
    except AgentGone:
        return False
    return message.op == "pong"
