"""Whether the agent's shared threads go on: each says when it begins something, and how long that may take at most.

A thread that waits for something to do says nothing, and is well. One that has ended, or is at one thing for longer
than it said, hangs, and with it what it does for all jobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Watched:
    thread: threading.Thread
    since: float = 0.0  # at work on one thing; monotonic seconds
    limit_s: float | None = None  # None: it waits for something to do


class Pulse:
    """By the thread's name; any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    def watch(self, thread: threading.Thread) -> None:
        """From now on *thread* must not end; if it has a namesake, in place of that."""
        self._watched[thread.name] = _Watched(thread)

    def forget(self, thread: threading.Thread) -> None:
        """It ends because it is done."""
        self._watched.pop(thread.name, None)

    @contextmanager
    def at_work(self, limit_s: float) -> Iterator[Callable[[], None]]:
        """The calling thread does one thing, or several, each of at most *limit_s*; yields what says "the next one"."""
        mine = self._watched.get(threading.current_thread().name) or _Watched(threading.current_thread())

        def begin() -> None:
            mine.since = self._clock()

        begin()
        mine.limit_s = limit_s
        try:
            yield begin
        finally:
            mine.limit_s = None

    def stuck(self) -> dict[str, float]:
        """The threads that hang, and for how many seconds each is at what it does (0 for one that has ended)."""
        found = {}
        for name, thread in list(self._watched.items()):
            limit, for_s = thread.limit_s, self._clock() - thread.since
            if limit is not None and for_s > limit:
                found[name] = round(for_s, 1)
            elif not thread.thread.is_alive() and self._watched.get(name) is thread:
                found[name] = 0.0
        return found
