"""When the engine was away, and whether that explains how a container ended. Pure.

All times are of the node's clock, seconds since the epoch, as an engine gives the end of a container.
"""

from __future__ import annotations

from dataclasses import dataclass

_BEFORE_S = 2.0  # an engine that shuts down ends its containers first and is gone a moment later
_AFTER_S = 3.0  # one that starts ends those of its predecessor before it answers; longer than a look for it takes


@dataclass(frozen=True, slots=True)
class Outage:
    """The engine was away *since* then, and answered again at *until*; None while it does not."""

    since: float
    until: float | None = None


def lost(before: Outage | None, now: float) -> Outage:
    """The engine is away *now*; one that comes and goes is away for one time."""
    if before is not None and (before.until is None or now - before.until <= _AFTER_S):
        return Outage(before.since)
    return Outage(now)


def back(before: Outage | None, now: float) -> Outage | None:
    """The engine answers *now*."""
    return before if before is None or before.until is not None else Outage(before.since, now)


def explains(outage: Outage | None, finished_at: float | None, now: float) -> bool:
    """Whether a container that ended at *finished_at* can have been ended by the engine's going, away time or coming.

    Where the engine does not know when it ended (None), *now* counts, when that is found out.
    """
    if outage is None:
        return False
    ended = now if finished_at is None else finished_at
    return outage.since - _BEFORE_S <= ended and (outage.until is None or ended <= outage.until + _AFTER_S)
