"""A worker's order under way, as the agent holds it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pbsdock.agent.workers import Worker
from pbsdock.core.errors import Refusal


@dataclass(slots=True)
class Work:
    """One order under way."""

    worker: Worker | None = None
    interrupted: str = ""  # why
    error: Refusal | None = None
    said: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def interrupt(self, why: str) -> None:
        """End it soon."""
        self.interrupted = self.interrupted or why
        if self.worker is not None:
            self.worker.kill()
