"""Threads that answer requests: for root one a request, for each user a few of each kind, the rest in turn.

A thread an open connection would let a user have as many of the agent's threads as connections.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[int, str]  # user id, kind of request


class WorkerPool(Generic[T]):
    """*act* is called with each thing submitted and must not raise; *most* says how many of a key at a time."""

    def __init__(self, act: Callable[[T], None], most: Callable[[int, str], int]) -> None:
        self._act = act
        self._most = most
        self._lock = threading.Lock()
        self._busy: Counter[Key] = Counter()
        self._waiting: dict[Key, deque[T]] = {}

    def load(self) -> tuple[int, int]:
        """How many things are acted on, and how many wait for their user's turn."""
        with self._lock:
            return self._busy.total(), sum(map(len, self._waiting.values()))

    def submit(self, uid: int, kind: str, thing: T) -> None:
        """Have *thing* acted on, at once or when it is its user's turn. Raises RuntimeError if no thread can be had."""
        key = (uid, kind)
        with self._lock:
            if uid and self._busy[key] >= self._most(uid, kind):
                self._waiting.setdefault(key, deque()).append(thing)
                return
            self._busy[key] += 1
        try:
            threading.Thread(target=self._run, args=(key, thing), name=f"{kind} {uid}", daemon=True).start()
        except RuntimeError:
            self._next(key)
            raise

    def _run(self, key: Key, thing: T) -> None:
        following: T | None = thing
        while following is not None:
            self._act(following)
            following = self._next(key)

    def _next(self, key: Key) -> T | None:
        with self._lock:
            waiting = self._waiting.get(key)
            if waiting:
                return waiting.popleft()
            self._waiting.pop(key, None)
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]
            return None
