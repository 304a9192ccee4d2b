"""Keeps live keys out of every text that leaves the agent, also out of the words of exceptions nobody foresaw.

The values are known exactly, because all of them pass through here when they are made; no pattern has to guess.
"""

from __future__ import annotations

import threading

_SHOWN = "[redacted]"
_LEAST = 8  # characters; what is shorter is no key, and would tear words apart


class Redactor:
    """The values that must not be seen; any thread."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._all: tuple[str, ...] = ()

    def add(self, owner: str, *values: str | None) -> None:
        """Remember values until their *owner* is forgotten."""
        with self._lock:
            mine = {*self._values.get(owner, ()), *(value for value in values if value and len(value) >= _LEAST)}
            self._values[owner] = tuple(mine)
            self._compute()

    def forget(self, owner: str) -> None:
        """They are worth nothing any more."""
        with self._lock:
            if self._values.pop(owner, None):
                self._compute()

    def _compute(self) -> None:
        # The longest first: a value may be part of another.
        self._all = tuple(sorted({value for mine in self._values.values() for value in mine}, key=len, reverse=True))

    def clean(self, text: str) -> str:
        """The text without them."""
        for value in self._all:
            if value in text:
                text = text.replace(value, _SHOWN)
        return text


known = Redactor()
