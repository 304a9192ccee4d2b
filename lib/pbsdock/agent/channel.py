"""The agent's end of a client's connection: no wait for it without a deadline, and none on a shared thread.

The socket never blocks. A message is sent whole or the client is dropped: our own hooks read at once, and one that is
dropped all the same comes back and asks.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence

from pbsdock.core.waiting import hung_up, writable
from pbsdock.protocol import wire


class ClientGone(Exception):
    """The client has closed its connection, stalled, or was dropped; nothing is owed to it."""


class Channel:
    """The listener reads; any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._lock = threading.Lock()  # held for single calls that do not block
        self._is_full = False  # whether somebody waits for the client to take the rest of a message

    def fileno(self) -> int:
        """The descriptor, for a selector; -1 once it is closed."""
        return self._socket.fileno()

    def receive(self, most: int) -> bytes | None:
        """What has come, *most* bytes of it; None if nothing has yet. Raises ClientGone at the connection's end."""
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClientGone(str(error)) from None
        if not data:
            raise ClientGone("it has closed the connection")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

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
        except ValueError:  # from poll: the listener has closed the connection
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
        """End the connection; the listener finds out."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its end, which the listener may not yet have seen."""
        fd = self._socket.fileno()
        return fd < 0 or hung_up(fd)
