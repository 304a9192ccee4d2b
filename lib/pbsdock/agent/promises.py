"""Releases that mom was told of as done while the engine tidies up. An agent that is told to stop keeps them first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Promises:
    """How many are not yet kept. Any thread."""

    def __init__(self) -> None:
        self._open = 0
        self._changed = threading.Condition()

    @contextmanager
    def made(self) -> Iterator[None]:
        """From before mom is told until it is so."""
        with self._changed:
            self._open += 1
        try:
            yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def kept(self, within_s: float) -> bool:
        """Wait until there is none, at most so long; returns whether there is none."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, within_s)
