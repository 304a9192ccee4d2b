"""Whose turn a pull is: some at once on a node, some a minute at a registry, and none before a registry wants it.

No user has all turns: with two or more at once the last is for somebody else, and whoever has fewest pulls under way
comes first, then who waits longest. A pull that several users wait for counts for the one of them who has fewest.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

_LOOK_S = 1.0  # limits may change, and moments come without a word
_MINUTE_S = 60.0
_MOST_HELD_S = 3600.0  # what a registry may ask for
_MOST_REGISTRIES = 4096

Why = Literal["", "turn", "rate", "registry"]


@dataclass(eq=False, slots=True)
class Turn:
    """That of a pull. ``registry`` is what it asks, ``door`` that and the login it shows.

    ``why`` it waits: "turn" for other pulls, "rate" for the registry's rate, "registry" because that has asked for it,
    until ``until`` at least.
    """

    registry: str
    door: Hashable
    users: set[int] = field(default_factory=set)
    why: Why = ""
    until: float = 0.0
    ahead: int = 0  # that wait too, and came before
    user: int | None = None  # whose turn it is, while it has it
    is_dropped: bool = False


class Turns:
    """Any thread. *at_once*: how many pulls, 0 for any number; *per_minute*: how many begin at a registry, likewise."""

    def __init__(
        self,
        at_once: Callable[[], int] = lambda: 0,
        per_minute: Callable[[str], int] = lambda registry: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.at_once = at_once
        self._per_minute = per_minute
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[Turn] = []
        self._running: list[Turn] = []
        self._begun: dict[str, deque[float]] = {}  # registry -> when pulls began, the last minute's
        self._held: dict[Hashable, float] = {}  # door -> until when

    def enter(self, turn: Turn) -> bool:
        """Stand in line; True if it is this turn at once, else :meth:`wait`."""
        with self._changed:
            turn.ahead = len(self._waiting)
            self._waiting.append(turn)
            return self._take(turn)

    def wait(self, turn: Turn) -> bool:
        """Until it is this turn; False once it is dropped."""
        with self._changed:
            while not turn.is_dropped:
                if self._take(turn):
                    return True
                self._changed.wait(_LOOK_S)
            self._waiting.remove(turn)
            turn.why = ""
            return False

    def join(self, turn: Turn, user: int) -> None:
        """This user waits for that pull as well."""
        with self._changed:
            turn.users.add(user)

    def drop(self, turn: Turn) -> None:
        """Nobody wants it any more."""
        with self._changed:
            turn.is_dropped = True
            self._changed.notify_all()

    def give_back(self, turn: Turn) -> None:
        """The pull is over, or rests."""
        with self._changed:
            if turn.user is not None:
                turn.user = None
                self._running.remove(turn)
                self._changed.notify_all()

    def hold(self, door: Hashable, seconds: float) -> None:
        """A registry does not want to be asked for so long, by this login."""
        now = self._clock()
        with self._changed:
            self._held = {key: until for key, until in self._held.items() if until > now}
            self._held[door] = max(self._held.get(door, 0.0), now + min(seconds, _MOST_HELD_S))

    def counts(self) -> tuple[int, int]:
        """Pulls that run and that wait."""
        with self._changed:
            return len(self._running), len(self._waiting)

    # -- with the lock ------------------------------------------------------------------------------------------------

    def _take(self, turn: Turn) -> bool:
        now = self._clock()
        running = Counter(other.user for other in self._running)
        ripe = [other for other in self._waiting if not self._why(other, now, running)]
        turn.ahead = self._waiting.index(turn)
        turn.why = self._why(turn, now, running) or "turn"
        if not ripe or min(ripe, key=lambda other: _fewest(other, running)) is not turn:
            return False
        turn.why, turn.user = "", min(turn.users or {0}, key=lambda user: running[user])
        self._waiting.remove(turn)
        self._running.append(turn)
        self._begin(turn.registry, now)
        return True

    def _why(self, turn: Turn, now: float, running: Counter[int | None]) -> Why:
        turn.until = self._held.get(turn.door, 0.0)
        if turn.until > now:
            return "registry"
        most = self.at_once()
        if most and (len(self._running) >= most or (most > 1 and _fewest(turn, running) >= most - 1)):
            return "turn"
        rate = self._per_minute(turn.registry)
        begun = self._begun.get(turn.registry, ())
        if rate and sum(at > now - _MINUTE_S for at in begun) >= rate:
            return "rate"
        return ""

    def _begin(self, registry: str, now: float) -> None:
        rate = self._per_minute(registry)
        if not rate:
            return
        begun = self._begun.pop(registry, deque())
        begun.append(now)
        while len(begun) > rate:
            begun.popleft()
        self._begun[registry] = begun  # the last that was asked is the last that is forgotten
        if len(self._begun) > _MOST_REGISTRIES:
            del self._begun[next(iter(self._begun))]


def _fewest(turn: Turn, running: Counter[int | None]) -> int:
    return min((running[user] for user in turn.users), default=0)
