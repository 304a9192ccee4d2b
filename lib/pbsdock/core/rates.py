"""Rate limits: a token bucket for each key."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

_MOST_KEYS = 4096


class Rates:
    """A bucket for each key, full at first. Not locked: the caller must lock.

    At most *most* buckets are kept; the least recently used is dropped first, and so full again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = _MOST_KEYS) -> None:
        self._clock = clock
        self._most = most
        self._left: dict[Hashable, tuple[float, float]] = {}  # turns left, as of which moment; the oldest first

    def __len__(self) -> int:
        return len(self._left)

    def take(self, key: Hashable, burst: float, per_second: float) -> bool:
        """Take a token of *key*; False if it has none. A bucket holds *burst* tokens and gains *per_second*."""
        now = self._clock()
        left, then = self._left.pop(key, (burst, now))
        left = min(burst, left + max(0.0, now - then) * per_second)
        granted = left >= 1
        self._left[key] = (left - 1 if granted else left, now)
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        return granted
