"""Jobs that have come to a sister, and what is known of them so far; :mod:`pbsdock.agent.announced` finds out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """What came of asking."""

    PREPARED = "prepared"  # or refused: there is a record
    BARE = "bare"  # a job without a container
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Arrival:
    """A job that is being asked about, or was. ``run`` is which run of it; ``why`` nothing is known of it."""

    run: str = ""
    outcome: Outcome = Outcome.UNKNOWN
    why: str = ""
    over: threading.Event = field(default_factory=threading.Event)


class Arrivals:
    """The jobs that are known so; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Arrival] = {}

    def of(self, job_id: str, run: str) -> tuple[Arrival, bool]:
        """The job's, and whether it is new: nobody has asked about this run of it, or in vain."""
        with self._lock:
            known = self._known.get(job_id)
            if known is not None and known.run == run:
                if not known.over.is_set() or known.outcome is not Outcome.UNKNOWN:
                    return known, False
            arrival = self._known[job_id] = Arrival(run)
            return arrival, True

    def forget(self, job_id: str) -> bool:
        """The job is over; returns whether it was known."""
        with self._lock:
            return self._known.pop(job_id, None) is not None

    def keep(self, is_live: Callable[[str], bool]) -> None:
        """Forget those that are not alive any more. Raises OSError."""
        for job_id in self.jobs():
            if not is_live(job_id):
                self.forget(job_id)

    def jobs(self) -> frozenset[str]:
        """Their ids."""
        with self._lock:
            return frozenset(self._known)
