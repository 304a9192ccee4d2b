"""How often something may happen, by whom: token buckets by key."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

_MOST_KEYS = 4096


class Rates:
    """One bucket a key, full at first. Not locked: the caller is.

    At most *most* buckets are remembered; the one that was longest not asked for is forgotten first, and so full again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = _MOST_KEYS) -> None:
        self._clock = clock
        self._most = most
        self._left: dict[Hashable, tuple[float, float]] = {}  # turns left, as of which moment; the oldest first

    def __len__(self) -> int:
        return len(self._left)

    def take(self, key: Hashable, burst: float, per_second: float) -> bool:
        """Take a turn of *key*, if there is one: *burst* at once, *per_second* for ever."""
        now = self._clock()
        left, then = self._left.pop(key, (burst, now))
        left = min(burst, left + max(0.0, now - then) * per_second)
        granted = left >= 1
        self._left[key] = (left - 1 if granted else left, now)
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        return granted
