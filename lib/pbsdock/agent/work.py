"""A worker's order under way, as the agent holds it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pbsdock.agent.workers import Worker
from pbsdock.core.errors import Refusal
from pbsdock.staging.made import UMASK


@dataclass(slots=True)
class Work:
    """One order under way."""

    worker: Worker | None = None
    interrupted: str = ""  # why
    error: Refusal | None = None
    said: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    held: Iterator[dict[str, Any]] | None = None  # what a stage-in's worker tells, once it waits for the umask

    def interrupt(self, why: str) -> None:
        """End it soon."""
        self.interrupted = self.interrupted or why
        if self.worker is not None:
            self.worker.kill()

    def follow(self, umask: int, within_s: float) -> None:
        """Let what was staged in follow the job's umask, if its worker is still there; the worker ends."""
        held, self.held = self.held, None
        if held is None or self.worker is None:
            return
        if umask != UMASK:
            timer = threading.Timer(within_s, self.worker.kill)  # its user can stop a process that is theirs
            timer.daemon = True
            timer.start()
            self.worker.tell_umask(umask)
            next(held, None)
            timer.cancel()
        self.worker.kill()
