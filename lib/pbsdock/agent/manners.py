"""How much of the agent one user may have at a time, so that nobody's programs keep others', or root's, from it.

Root's hooks are mom's and always get in. A user gets a share of the connections, of the bytes that are under way, and
of the agent's time: whoever asks faster than that is answered more slowly.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict

_LEAST_CONNECTIONS = 8
_SHARES = 4  # a user gets one part in so many of the connections
_MESSAGES = 16  # largest messages a user may have under way at a time
_BURST, _PER_SECOND = 1000, 50.0  # requests: a wide job's tasks at once, and then for ever


class Manners:
    """Counts by user id; any thread."""

    def __init__(self, connections: int, message_bytes: int) -> None:
        self.connections = connections
        self.bytes = message_bytes * _MESSAGES
        self._lock = threading.Lock()
        self._open: Counter[int] = Counter()
        self._coming: Counter[int] = Counter()
        self._credit: dict[int, tuple[float, float]] = {}  # requests left, as of which moment
        self._turns: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    def enter(self, uid: int) -> bool:
        """Whether one more connection of *uid* is served."""
        share = max(_LEAST_CONNECTIONS, self.connections // _SHARES)
        with self._lock:
            if uid and (self._open.total() >= self.connections or self._open[uid] >= share):
                return False
            self._open[uid] += 1
            return True

    def leave(self, uid: int) -> None:
        """A connection is over."""
        with self._lock:
            self._open[uid] -= 1

    def take(self, uid: int, size: int) -> bool:
        """Whether a message of *size* may come in; what was taken is given back once it has been dealt with."""
        with self._lock:
            if uid and self._coming[uid] + size > self.bytes:
                return False
            self._coming[uid] += size
            return True

    def give(self, uid: int, size: int) -> None:
        """The message is no longer held."""
        with self._lock:
            self._coming[uid] -= size

    def wait(self, uid: int) -> None:
        """Return when it is this user's turn: at once, unless they have asked too much; one thread after another."""
        if not uid:
            return
        with self._lock:
            turn = self._turns[uid]
        with turn:
            now = time.monotonic()
            left, then = self._credit.get(uid, (float(_BURST), now))
            left = min(float(_BURST), left + (now - then) * _PER_SECOND) - 1
            self._credit[uid] = (left, now)
            if left < 0:
                time.sleep(1 / _PER_SECOND)
