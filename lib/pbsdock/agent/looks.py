"""How often the other nodes of jobs are asked about them: what was told a moment ago is told again.

A user can have it asked at will, and each node answers only so many questions of another. So an answer serves longer
the more nodes a job has, and nobody's jobs are asked about more often than _PER_S.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pbsdock.agent.questions import Questions
from pbsdock.core.story import Story

_FRESH_S, _FRESH_PER_NODE_S = 1.9, 0.1  # how long an answer serves
_AT_ONCE, _PER_S = 8, 1.0  # times that a user's jobs are asked about
_MOST, _KEPT_S = 64, 60.0  # jobs whose answers are kept, and how long: those of wide jobs take a megabyte

Row = dict[str, Any]


@dataclass(slots=True)
class _Look:
    """What the nodes of one job have told, and when (monotonic)."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    rows: list[Row] = field(default_factory=list)
    at: float = 0.0
    of_end: bool = False  # whether the job was over here by then


class Looks:
    """The last looks; any thread. Whoever asks of a job that is being asked about waits for the same answer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._questions = Questions(_AT_ONCE, _PER_S, clock)
        self._looks: dict[str, _Look] = {}  # by incarnation, the least recently used first

    def rows(self, story: Story, uid: int, ask: Callable[[Story], list[Row]]) -> list[Row] | None:
        """What *ask* tells of a job's other nodes, or has told; None where user *uid* asks too often."""
        with self._lock:
            look = self._looks.pop(story.incarnation, None) or _Look()
            since = self._clock() - _KEPT_S
            self._looks = {key: kept for key, kept in self._looks.items() if kept.at > since or kept.lock.locked()}
            self._looks[story.incarnation] = look
            if len(self._looks) > _MOST:
                del self._looks[next(iter(self._looks))]
        with look.lock:
            if not self._is_fresh(look, story):
                if uid and not self._questions.admit(uid):
                    return look.rows or None
                look.rows = ask(story)
                look.at, look.of_end = self._clock(), story.is_over
            return look.rows

    def _is_fresh(self, look: _Look, story: Story) -> bool:
        is_told = bool(look.rows) and look.of_end == story.is_over
        return is_told and self._clock() - look.at < _FRESH_S + _FRESH_PER_NODE_S * len(story.hosts)
