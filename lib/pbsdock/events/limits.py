"""The limits of the event stream, for each user and for all users together.

Only events a user can cause at will are limited (``register.AT_WILL``), and only where they name who did. What is
left out is counted, and told once a minute.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from pbsdock.core.rates import Rates
from pbsdock.events.register import AT_WILL

_TOLD_S = 60.0
_ALL = (3000, 10.0)  # lines of all users: at once, and then a second
_MOST_TOLD = 32  # users who are told of by name; a user with many ids must not fill the stream with these lines either
_OTHERS = "others"


class EventLimits:
    """Not locked: the stream is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates = Rates(clock)
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._since = clock()

    def admit(self, event: str, fields: Mapping[str, Any]) -> bool:
        """Whether this line may be written; otherwise it is counted."""
        owner = fields.get("uid", fields.get("user"))
        if event not in AT_WILL or owner is None:
            return True
        burst, a_minute = AT_WILL[event]
        who = str(owner)
        if self._rates.take((event, who), burst, a_minute / 60) and self._rates.take("all", *_ALL):
            return True
        if not self._left_out:
            self._since = self._clock()
        known = (event, who) in self._left_out or len(self._left_out) < _MOST_TOLD
        self._left_out[event, who if known else _OTHERS] += 1
        return False

    def due(self, *, now: bool = False) -> list[dict[str, Any]]:
        """The counts of lines left out, a minute after the first, or *now*; they start again at 0."""
        if not self._left_out or not (now or self._clock() - self._since >= _TOLD_S):
            return []
        found = [{"of": event, "who": who, "count": count} for (event, who), count in sorted(self._left_out.items())]
        self._left_out.clear()
        return found
