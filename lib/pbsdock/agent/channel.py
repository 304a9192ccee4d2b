"""The agent's end of a client's connection: no wait for it without a deadline, and none on a shared thread.

The socket never blocks. A message is sent whole or the client is dropped: our own hooks read at once, and one that is
dropped all the same comes back and asks.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from pbsdock.core.waiting import hung_up, readable, writable
from pbsdock.protocol import wire

_AT_ONCE = 1 << 20
_LONG_S = 3600.0  # and then once more


class ClientGone(Exception):
    """The client has closed its connection, stalled, or was dropped; nothing is owed to it."""


class Channel:
    """One thread reads; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._lock = threading.Lock()  # held for single calls that do not block
        self._is_full = False  # whether somebody waits for the client to take the rest of a message

    def read(self, size: int, seconds: float | None) -> bytes | None:
        """So many bytes, all of them within *seconds*: a byte now and then does not keep a connection. None at its end.

        Raises ClientGone.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        parts = bytearray()
        while len(parts) < size:
            try:
                data = self._socket.recv(min(size - len(parts), _AT_ONCE))
            except BlockingIOError:
                self._await_more(deadline)
                continue
            except OSError as error:
                raise ClientGone(str(error)) from None
            if not data:
                return None
            parts += data
        return bytes(parts)

    def _await_more(self, deadline: float | None) -> None:
        if deadline is None:
            readable(self._socket.fileno(), _LONG_S)
        elif (left := deadline - time.monotonic()) <= 0 or not readable(self._socket.fileno(), left):
            raise ClientGone("it says no more")

    def send(self, message: wire.Message, fds: Sequence[int] = (), *, wait_s: float = 0.0) -> None:
        """Send one message whole, waiting for the client to read for *wait_s* at most; if it does not, it is dropped.

        Raises ClientGone, also while another thread waits: the client's socket is full then.
        """
        rest = memoryview(wire.encode(message))
        deadline = time.monotonic() + wait_s
        with self._lock:
            if self._is_full:
                self.drop()
                raise ClientGone("it does not read")
            rest, fds = self._put(rest, fds)
            self._is_full = bool(rest)
        if not rest:
            return
        try:
            while rest:
                left = deadline - time.monotonic()
                if left <= 0 or not writable(self._socket.fileno(), left):
                    self.drop()
                    raise ClientGone("it does not read")
                rest, fds = self._put(rest, fds)
        except ValueError:  # from poll: the thread that reads has closed the connection
            raise ClientGone("it is closed") from None
        finally:
            self._is_full = False

    def _put(self, data: memoryview, fds: Sequence[int]) -> tuple[memoryview, Sequence[int]]:
        """Send what there is room for; returns what is left of the data, and of the descriptors."""
        try:
            sent = socket.send_fds(self._socket, [data], list(fds)) if fds else self._socket.send(data)
        except BlockingIOError:
            return data, fds
        except OSError as error:
            raise ClientGone(str(error)) from None
        return data[sent:], ()  # they go with the first bytes

    def drop(self) -> None:
        """End the connection; the thread that reads it finds out."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its end, which its thread here may not yet have seen."""
        fd = self._socket.fileno()
        return fd < 0 or hung_up(fd)
