"""Waiting for one descriptor by poll(2): select(2) knows none above 1023, and the agent has more than that."""

from __future__ import annotations

import math
import select


def readable(fd: int, seconds: float) -> bool:
    """Whether there is something to read at *fd*, or nothing ever will be, within *seconds*."""
    return _comes(fd, select.POLLIN, seconds)


def writable(fd: int, seconds: float) -> bool:
    """Whether *fd* takes something, or never will, within *seconds*."""
    return _comes(fd, select.POLLOUT, seconds)


def hung_up(fd: int) -> bool:
    """Whether the other end of a connection is closed, or this one shut, be there still something to read or not."""
    return _comes(fd, select.POLLRDHUP, 0.0)


def _comes(fd: int, what: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, what)
    return bool(poller.poll(max(0, math.ceil(seconds * 1000))))
