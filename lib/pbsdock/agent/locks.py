"""Locks by name, there for no longer than somebody holds or awaits them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Locks:
    """Any thread; as many names as one likes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._named: dict[str, tuple[threading.Lock, int]] = {}  # and how many hold or await it

    def __len__(self) -> int:
        return len(self._named)

    @contextmanager
    def hold(self, name: str, wait_s: float) -> Iterator[None]:
        """Hold the lock of that name. Raises TimeoutError if it is not free within *wait_s*."""
        with self._guard:
            lock, users = self._named.get(name, (threading.Lock(), 0))
            self._named[name] = (lock, users + 1)
        try:
            if not lock.acquire(timeout=wait_s):
                raise TimeoutError(name)
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, users = self._named.pop(name)
                if users > 1:
                    self._named[name] = (lock, users - 1)
