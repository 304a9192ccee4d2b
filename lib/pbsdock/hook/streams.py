"""The streams of a container's command, between the engine and this process's own descriptors.

Standard output and error come from the engine's own attach stream, whose descriptor the agent hands over, so no byte of
output passes the agent. The stream's frames are Docker's: one byte stream number, three zero bytes, four bytes length,
data (Engine API, "Attach to a container"). With a terminal there are no frames.
"""

from __future__ import annotations

import _socket
import errno
import os
import select

TYPE_CHECKING = False  # importing `typing` would cost a hook seven milliseconds
if TYPE_CHECKING:
    from typing import Any

_FRAME = 8
_CHUNK = 1 << 18
_LOSES = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT, errno.EIO)  # output is lost that somebody wanted


def write_all(fd: int, data: memoryview) -> None:
    """Write everything, waiting when *fd* is non-blocking and full. Raises OSError."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
        except InterruptedError:
            continue


class Demux:
    """Splits Docker's multiplexed stream into stdout and stderr, frame boundaries anywhere."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._fd = 1
        self._open = {1: True, 2: True}
        self.failed: dict[int, int] = {}  # descriptor -> errno, of output that was lost

    def feed(self, data: memoryview) -> None:
        """Write out what *data* holds and remember a frame that is not complete."""
        while data:
            if self._left:
                piece = data[: self._left]
                self._write(piece)
                self._left -= len(piece)
                data = data[len(piece) :]
                continue
            need = _FRAME - len(self._head)
            self._head += bytes(data[:need])
            data = data[need:]
            if len(self._head) == _FRAME:
                self._fd = 2 if self._head[0] == 2 else 1
                self._left = int.from_bytes(self._head[4:], "big")
                self._head = b""

    def _write(self, piece: memoryview) -> None:
        if not self._open[self._fd]:
            return
        try:
            write_all(self._fd, piece)
        except OSError as error:
            # Nobody reads any more, or the disk is full: a bare job's writes would fail the same way; the container
            # cannot be told through the engine's pipe, so the rest is drained to let it end.
            self._open[self._fd] = False
            if error.errno in _LOSES:
                self.failed[self._fd] = error.errno


class Streams:
    """The engine's attach stream, until it is over."""

    def __init__(self, poller: select.poll, *, tty: bool) -> None:
        self._poller = poller
        self._tty = tty
        self._attach: Any = None
        self._stdin_open = True
        self._demux = Demux()
        self._buffer = memoryview(bytearray(_CHUNK))

    @property
    def failed(self) -> dict[int, int]:
        """Of which descriptors output was lost, and the errno why."""
        return self._demux.failed

    @property
    def are_open(self) -> bool:
        """Whether there is a stream."""
        return self._attach is not None

    def open(self, fds: list[int]) -> None:
        """Take the stream that the agent has handed over; more than that is closed."""
        for extra in fds[1:]:
            os.close(extra)
        self._attach = _socket.socket(1, 1, 0, fds[0])
        self._attach.setblocking(True)
        self._poller.register(fds[0], select.POLLIN)
        self._poller.register(0, select.POLLIN)

    def handle(self, fd: int) -> bool:
        """Pass on what *fd* has, if it is one of these; returns whether the engine's stream is over now."""
        if self._attach is None:
            return False
        if fd == self._attach.fileno():
            return self._from_engine()
        if fd == 0 and self._stdin_open:
            self._from_stdin()
        return False

    def _from_engine(self) -> bool:
        try:
            count = self._attach.recv_into(self._buffer)
        except OSError:
            count = 0
        if count == 0:
            self._poller.unregister(self._attach.fileno())
            self._attach.close()
            self._attach = None
            if self._stdin_open:
                self._poller.unregister(0)
            return True
        if not self._tty:
            self._demux.feed(self._buffer[:count])
            return False
        try:
            write_all(1, self._buffer[:count])
        except OSError:
            pass
        return False

    def _from_stdin(self) -> None:
        try:
            data = os.read(0, 65536)
        except OSError:
            data = b""
        try:
            if data:
                self._attach.sendall(data)
            else:
                self._stdin_open = False
                self._poller.unregister(0)
                self._attach.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # the stream is about to be seen to be over
