"""Stories of jobs for unit tests."""

from __future__ import annotations

from typing import Any

from pbsdock.core.facts import Exit, Usage
from pbsdock.core.plan import Limits
from pbsdock.core.story import Story

MIB = 1 << 20
LIMITS = Limits(
    memory_bytes=200 * MIB, memory_swap_bytes=None, cpu_millis=2000, cpuset=None, pids=4096, shm_bytes=100 * MIB
)


def story(code: int | None = 0, *, used: Usage | None = None, **changes: Any) -> Story:
    """A job that ran for 12 s of its minute and is over; by default well."""
    given: dict[str, Any] = {
        "job": "7.vm",
        "incarnation": "65a0b1c2deadbeef",
        "uid": 2001,
        "user": "alice",
        "node": "n1",
        "state": "over",
        "created_at": 1000.0,
        "told_at": 1020.0,
        "image": "docker.io/library/busybox:1",
        "limits": LIMITS,
        "walltime_s": 60,
        "used": used or Usage(limit_hit=False),
        "started_at": 1002.0,
        "ended_at": 1014.0,
        "over_from": "ended",
        "removed_for": "epilogue",
        "exit": None if code is None else Exit(code=code, at=1014.0),
        "exit_status": code,
    }
    return Story(**{**given, **changes})


def unstarted(**changes: Any) -> Story:
    """A job whose container never ran."""
    given: dict[str, Any] = {"started_at": None, "ended_at": None, "exit_status": None, "over_from": "ready"}
    return story(None, **{**given, **changes})
