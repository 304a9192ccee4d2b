"""How often a user may ask: of jobs here, and, less often, of those on other nodes (:mod:`pbsdock.agent.looks`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pbsdock.core.rates import Rates

_AT_ONCE, _PER_S = 40, 20  # of one user: so many at once, and a second for ever


class Questions:
    """Counts them by user id: an answer reads files, and whoever asks in a loop must not keep the agent busy.

    A user has *at_once*, and *per_s* for ever. Any thread.
    """

    def __init__(
        self, at_once: float = _AT_ONCE, per_s: float = _PER_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once, self._per_s = at_once, per_s
        self._rates = Rates(clock)
        self._lock = threading.Lock()

    def admit(self, uid: int) -> bool:
        """Whether this user may ask now."""
        with self._lock:
            return self._rates.take(uid, self._at_once, self._per_s)
