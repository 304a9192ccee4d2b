"""How much of the agent one user may have at a time, so that nobody's programs keep others', or root's, from it.

Root's hooks are mom's and always get in. A user gets a share of the connections, of the memory that requests take until
they are answered, and of the agent's time: whoever asks faster than that is answered more slowly, and whoever connects
faster is hung up on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from pbsdock.agent.memory import heap
from pbsdock.core.rates import Rates

_LEAST_CONNECTIONS = 8
_SHARES = 4  # a user gets one part in so many of the connections
_LEADERS = 8  # and some more: a job of 256 tasks has its own shell too
_MESSAGES = 16  # largest messages a user may have under way at a time
_BURST, _PER_SECOND = 1000, 50.0  # connections, requests: a wide job's tasks at once, and then for ever
_SMALL = 1024  # bytes; whatever else is under way, a signal gets through. The connections bound how many there are
_A_PART = 64  # bytes of a short bytes object, its place in a list and the allocator's rounding (measured)


def cost(size: int, parts: int) -> int:
    """Bytes of memory a request of *size* bytes in *parts* takes until it is answered: as it came, and in pieces."""
    return 2 * size + _A_PART * parts


class Held:
    """What one request holds of its user's share."""

    def __init__(self, manners: Manners, uid: int) -> None:
        self._manners = manners
        self._uid = uid
        self.size = 0

    def grow(self, size: int, wait_s: float) -> bool:
        """Hold *size* bytes in all from now on; False if there is no room for them within *wait_s*."""
        more = size - self.size
        if more > 0 and not self._manners.take(self._uid, more, wait_s):
            return False
        self.size = max(self.size, size)
        return True


class Manners:
    """Counts by user id; any thread."""

    def __init__(self, connections: int, message_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.connections = connections
        self.bytes = message_bytes * _MESSAGES
        self._lock = threading.Lock()
        self._open: Counter[int] = Counter()
        self._held: Counter[int] = Counter()
        self._room: defaultdict[int, threading.Condition] = defaultdict(lambda: threading.Condition(self._lock))
        self._rates = Rates(clock)
        self._turns: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._under_way: Counter[Hashable] = Counter()

    def enter(self, uid: int) -> bool:
        """Whether one more connection of *uid* is served."""
        share = max(_LEAST_CONNECTIONS, self.connections // _SHARES + _LEADERS)
        with self._lock:
            if uid and (self._open.total() >= self.connections or self._open[uid] >= share):
                return False
            if uid and not self._rates.take(("enter", uid), _BURST, _PER_SECOND):
                return False
            self._open[uid] += 1
            return True

    def leave(self, uid: int) -> None:
        """A connection is over."""
        with self._lock:
            self._open[uid] -= 1
            if not self._open[uid]:
                del self._open[uid]

    @contextmanager
    def held(self, uid: int) -> Iterator[Held]:
        """What one request of *uid* holds; all of it is given back when it has been answered."""
        one = Held(self, uid)
        try:
            yield one
        finally:
            self.give(uid, one.size)

    def take(self, uid: int, size: int, wait_s: float) -> bool:
        """Whether *size* bytes more may be held, now or within *wait_s* (seconds)."""
        if not uid or size <= _SMALL:
            wait_s = 0.0
        with self._lock:
            fits = self._room[uid].wait_for(lambda: self._held[uid] + size <= self.bytes, wait_s)
            if not fits and uid and size > _SMALL:
                return False
            self._held[uid] += size
            return True

    def give(self, uid: int, size: int) -> None:
        """The request is no longer held."""
        with self._lock:
            self._held[uid] -= size
            self._room[uid].notify_all()
        heap.freed(size)

    def wait(self, uid: int) -> None:
        """Return when it is this user's turn: at once, unless they have asked too much; one thread after another."""
        if not uid:
            return
        with self._lock:
            turn = self._turns[uid]
        with turn:
            while not self._take_turn(uid):
                time.sleep(1 / _PER_SECOND)

    def _take_turn(self, uid: int) -> bool:
        with self._lock:
            return self._rates.take(("ask", uid), _BURST, _PER_SECOND)

    @contextmanager
    def under_way(self, what: Hashable, most: int) -> Iterator[bool]:
        """Whether there are fewer than *most* of *what* under way; if so, there is one more until the end."""
        with self._lock:
            granted = self._under_way[what] < most
            self._under_way[what] += granted
        try:
            yield granted
        finally:
            with self._lock:
                self._under_way[what] -= granted
                if not self._under_way[what]:
                    del self._under_way[what]
