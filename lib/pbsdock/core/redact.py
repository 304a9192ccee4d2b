"""Removes live keys from every text that leaves the agent, also from the messages of unforeseen exceptions.

The values are known exactly: each is added when it is made. No pattern has to guess.
"""

from __future__ import annotations

import threading

_SHOWN = "[redacted]"
_LEAST = 8  # characters; what is shorter is no key, and would tear words apart


class Redactor:
    """Replaces the values it knows; any thread."""

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
        """Forget the values of *owner*, which are not valid any more."""
        with self._lock:
            if self._values.pop(owner, None):
                self._compute()

    def _compute(self) -> None:
        # The longest first: a value may be part of another.
        self._all = tuple(sorted({value for mine in self._values.values() for value in mine}, key=len, reverse=True))

    def clean(self, text: str) -> str:
        """The text with each known value replaced by ``[redacted]``."""
        for value in self._all:
            if value in text:
                text = text.replace(value, _SHOWN)
        return text


known = Redactor()
