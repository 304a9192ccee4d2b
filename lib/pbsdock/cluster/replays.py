"""Which requests of other nodes are fresh: young enough, and not heard before. Pure."""

from __future__ import annotations

from collections.abc import Callable

from pbsdock.cluster.channel import Request, Unfit

_MOST = 1 << 16  # nonces kept; only who can sign fills this, and one that is forgotten early changes nothing


class Replays:
    """Not locked: the caller must lock. *skew_s*: how far two clocks may be apart; *clock*: seconds since the epoch."""

    def __init__(self, skew_s: float, clock: Callable[[], float], most: int = _MOST) -> None:
        self._skew_s = skew_s
        self._clock = clock
        self._most = most
        self._heard: dict[str, float] = {}  # nonce -> when it was signed; the first that was heard first

    def __len__(self) -> int:
        return len(self._heard)

    def admit(self, request: Request) -> None:
        """From now on it has been heard. Raises Unfit for one that is too old, too new or was heard before."""
        now = self._clock()
        apart = request.at - now
        if not abs(apart) <= self._skew_s:  # so that what is no number at all is refused
            when = "ago" if apart < 0 else "in the future"
            raise Unfit(f"it was signed {abs(apart):.0f} s {when} by its clock; up to {self._skew_s:g} s are allowed")
        if request.nonce in self._heard:
            raise Unfit("it was heard before")
        for nonce, at in list(self._heard.items())[:2]:  # two go for each that comes
            if now - at > self._skew_s:
                del self._heard[nonce]
        if len(self._heard) >= self._most:
            del self._heard[next(iter(self._heard))]
        self._heard[request.nonce] = request.at
