"""Allocations without a step at the moment (salloc, between two srun): they have neither a cgroup nor a slurmstepd.

What their Prolog has written is there until their Epilog. An Epilog can be lost with its slurmd, so that the controller
is asked as well, each job at most once a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

_AGAIN_S = 60.0
_JUST_S = 60.0  # its Prolog, or the start of its first step, may be under way


class IdleJobs:
    """*told* is the directory of what Prologs have written, *knows* asks the controller (None: no answer)."""

    def __init__(self, told: Path, knows: Callable[[str], bool | None]) -> None:
        self._told = told
        self._knows = knows
        self._asked: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def lives(self, job: str) -> bool:
        """Whether a job lives that has no step here."""
        try:
            if time.time() - (self._told / job).stat().st_mtime < _JUST_S:
                return True
        except OSError:
            return False
        with self._lock:
            at, lives = self._asked.get(job, (-_AGAIN_S, True))
            if time.monotonic() - at >= _AGAIN_S:
                lives = self._knows(job) is not False
                self._asked = {name: found for name, found in self._asked.items() if (self._told / name).exists()}
                self._asked[job] = (time.monotonic(), lives)
        return lives
