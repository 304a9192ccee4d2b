"""How much of the agent one user may have at a time, so that nobody's programs keep others', or root's, from it.

Root's hooks are mom's and always get in. A user gets a share of the connections, of the memory that requests take until
they are answered, and of the agent's time: whoever asks faster than that is answered more slowly, and whoever connects
faster is hung up on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from pbsdock.agent.memory import heap
from pbsdock.core.rates import Rates

_LEAST_CONNECTIONS = 8
_SHARES = 4  # a user gets one part in so many of the connections
_LEADERS = 8  # and some more: a job of 256 tasks has its own shell too
_MESSAGES_OF_ALL, _MESSAGES_OF_ONE = 12, 3  # so many of the largest messages' bytes may be held, root's apart
_ORDINARY = 256 << 10  # bytes a request costs that others' large ones do not keep out
_BURST, _PER_SECOND = 1000, 50.0  # connections, requests: a wide job's tasks at once, and then for ever
_SMALL = 1024  # bytes; whatever else is under way, a signal gets through. The connections bound how many there are
_A_PART = 64  # bytes of a short bytes object, its place in a list and the allocator's rounding (measured)


def cost(size: int, parts: int) -> int:
    """Bytes of memory a request of *size* bytes in *parts* takes until it is answered: as it came, and in pieces."""
    return 2 * size + _A_PART * parts


class Held:
    """What one request holds of its user's share."""

    def __init__(self, quota: UserQuota, uid: int) -> None:
        self._quota = quota
        self._uid = uid
        self.size = 0

    def grow(self, size: int) -> bool:
        """Hold *size* bytes in all from now on; False if there is no room for them."""
        if size > self.size:
            if not self._quota.take(self._uid, size - self.size):
                return False
            self.size = size
        return True

    def release(self) -> None:
        """Give all of it back: the request has been answered, or will never be."""
        size, self.size = self.size, 0
        if size:
            self._quota.give(self._uid, size)


class UserQuota:
    """Counts by user id; any thread."""

    def __init__(self, connections: int, message_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.connections = connections
        self.bytes_of_all = message_bytes * _MESSAGES_OF_ALL
        self.bytes_of_one = message_bytes * _MESSAGES_OF_ONE
        self._lock = threading.Lock()
        self._open: Counter[int] = Counter()
        self._held: Counter[int] = Counter()
        self._rates = Rates(clock)
        self._turns: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)

    @property
    def in_use(self) -> int:
        """Connections there are."""
        with self._lock:
            return self._open.total()

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

    def take(self, uid: int, size: int) -> bool:
        """Whether *size* bytes more may be held now.

        A user's first request may be as large as there is room for in all; others' ordinary ones get in beside it.
        """
        with self._lock:
            mine = self._held[uid]
            fits_one = not mine or mine + size <= self.bytes_of_one
            fits_all = size <= _ORDINARY or self._held.total() + size <= self.bytes_of_all
            if uid and size > _SMALL and not (fits_one and fits_all):
                return False
            self._held[uid] += size
            return True

    def give(self, uid: int, size: int) -> None:
        """The request is no longer held."""
        with self._lock:
            self._held[uid] -= size
            if not self._held[uid]:
                del self._held[uid]
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
