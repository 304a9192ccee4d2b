"""What is to be done in a while, or beside what goes on now, without a thread of its own that waits for it.

One thread waits for all; a few do what is due. So no user's commands make more threads than these, however many there
are.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_WORKERS = 16
_LONGEST_S = 10 * 365 * 86400.0  # what a lock can be waited for has an end (threading.TIMEOUT_MAX)


class Later:
    """Any thread; nothing runs before it is first asked for something."""

    def __init__(self, name: str, workers: int = _WORKERS) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(workers, name)
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def soon(self, act: Callable[[], object]) -> None:
        """Do it as soon as one of the workers is free. Raises RuntimeError where no thread can be had."""
        self._pool.submit(act)

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Do it in *seconds*. Raises RuntimeError where no thread can be had."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._wait, name=f"{self._name}-later", daemon=True)
                thread.start()
                self._thread = thread
            due = time.monotonic() + min(max(seconds, 0.0), _LONGEST_S)
            heapq.heappush(self._due, (due, next(self._numbers), act))
            self._changed.notify()

    def _wait(self) -> None:
        while True:
            with self._changed:
                while not self._due or (left := self._due[0][0] - time.monotonic()) > 0:
                    self._changed.wait(min(left, 3600.0) if self._due else None)
                act = heapq.heappop(self._due)[2]
            self._pool.submit(act)
