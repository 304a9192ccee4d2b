"""What is known of a container that is made ahead of its run hook; :mod:`pbsdock.agent.standing` makes it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pbsdock.core.facts import Bound
from pbsdock.host.process import alive


@dataclass(slots=True)
class Standing:
    """A container under way, or ready. ``pid`` is its first process; ``error`` why there is none."""

    bound: tuple[Bound, ...]
    container: str = ""
    pid: int = 0
    pid_start: int = 0
    error: Exception | None = None
    is_abandoned: bool = False  # a release waits for the thread
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_ready(self) -> bool:
        """Whether its first process is there."""
        return self.over.is_set() and self.error is None and alive(self.pid, self.pid_start)
