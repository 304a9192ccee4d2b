"""How often a user may ask about jobs."""

from __future__ import annotations

import threading

from pbsdock.core.rates import Rates

_AT_ONCE, _PER_S = 40, 20  # of one user: so many at once, and a second for ever


class Questions:
    """Counts them by user id: an answer reads files, and whoever asks in a loop must not keep the agent busy."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._lock = threading.Lock()

    def admit(self, uid: int) -> bool:
        """Whether this user may ask now."""
        with self._lock:
            return self._rates.take(uid, _AT_ONCE, _PER_S)
