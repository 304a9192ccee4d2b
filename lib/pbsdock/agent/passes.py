"""What the reaper's passes came to since the agent was started."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCounts:
    """``done_at``: when one that was not blocked ended last, seconds since the epoch; 0: none has."""

    done: int = 0
    blocked: int = 0
    done_at: float = 0.0
    seconds: float = 0.0  # the last one took
    left: int = 0  # and what it could not remove


class Passes:
    """Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts = PassCounts()

    def note(self, *, is_blocked: bool, left: int, seconds: float) -> None:
        """A pass is over."""
        with self._lock:
            before = self.counts
            if is_blocked:
                self.counts = replace(before, blocked=before.blocked + 1)
            else:
                self.counts = replace(before, done=before.done + 1, done_at=time.time(), seconds=seconds, left=left)
