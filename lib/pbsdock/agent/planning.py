"""CPU time that planning a user's jobs may take: one script must not keep the others' prologues waiting.

A directive costs what its text is long, and both have bounds; whoever submits the longest there are again and again is
refused once a budget that refills is spent. It is far above what ordinary scripts take (a millisecond each).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pbsdock.core.errors import Refusal

BUDGET_S = 10.0  # of a processor
PER_S = 0.05
_USERS = 4096


class Planning:
    """By user id; any thread."""

    def __init__(self, budget_s: float = BUDGET_S, per_s: float = PER_S) -> None:
        self.budget_s = budget_s
        self.per_s = per_s
        self._lock = threading.Lock()
        self._left: dict[int, tuple[float, float]] = {}  # seconds left, as of which moment

    @contextmanager
    def turn(self, uid: int, user: str) -> Iterator[None]:
        """Charge what is done inside to the user. Raises Refusal if nothing is left."""
        with self._lock:
            left = self._now(uid)
        if left <= 0:
            wait = math.ceil(-left / self.per_s) + 1
            raise Refusal(
                "planning-time",
                f"the #DOCKER lines of {user}'s jobs have taken more than {self.budget_s:g} s of this node's processor"
                f" to read; submit the job again in {wait} s, or with fewer or shorter lines",
            )
        began = time.thread_time()
        try:
            yield
        finally:
            spent = time.thread_time() - began
            self._charge(uid, spent)

    def _now(self, uid: int) -> float:
        left, then = self._left.get(uid, (self.budget_s, 0.0))
        return min(self.budget_s, left + (time.monotonic() - then) * self.per_s)

    def _charge(self, uid: int, spent: float) -> None:
        with self._lock:
            self._left[uid] = (self._now(uid) - spent, time.monotonic())
            if len(self._left) > _USERS:
                fullest = max(self._left, key=lambda user: self._left[user][0])
                del self._left[fullest]
