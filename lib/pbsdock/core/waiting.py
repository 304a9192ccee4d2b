"""Wait for a descriptor with poll(2): select(2) is limited to 1,023, and the agent has more."""

from __future__ import annotations

import math
import select


def readable(fd: int, seconds: float) -> bool:
    """Whether *fd* can be read without blocking, or is at its end, within *seconds*."""
    return _comes(fd, select.POLLIN, seconds)


def writable(fd: int, seconds: float) -> bool:
    """Whether *fd* can be written without blocking, or fails, within *seconds*."""
    return _comes(fd, select.POLLOUT, seconds)


def hung_up(fd: int) -> bool:
    """Whether the other end of a connection is closed, or this end shut down, even if there is still data to read."""
    return _comes(fd, select.POLLRDHUP, 0.0)


def _comes(fd: int, what: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, what)
    return bool(poller.poll(max(0, math.ceil(seconds * 1000))))
