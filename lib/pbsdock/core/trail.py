"""What a job leaves behind on its way, for whoever asks why it went so: decisions, phases, a fault. Pure.

All of it is bounded, because a record is written whole each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_PHASES = 48
_MOST_OF_A_USER = 8  # phases of one name: what a user can cause at will leaves room for the rest
_MOST_TEXT = 300  # characters

# The event -> the phase that it ends, or the moment that it tells of.
_PHASES = {
    "cgroup.created": "cgroup",
    "credentials.minted": "credentials",
    "job.signalled": "signal",
    "mount.skipped": "mount left out",
    "stage.done": "stage-{direction}",
    "stage.failed": "stage-{direction}",
}
# Whose fields say what there is to say of such a phase.
_NOTES = {
    "job.signalled": "{signal}",
    "mount.skipped": "{target}: {reason}",
    "stage.done": "{files} files, {bytes} bytes",
    "stage.failed": "{code}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that policy decided: ``rule`` is the key of the site's file that counted, or what asked for it.

    ``line`` is where that key is written in the site's file; 0 where it is not: then the default counts.
    """

    what: str
    value: str
    rule: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a job's way: when it began (seconds since the epoch), how long it took, None for a mere moment."""

    name: str
    at: float
    ms: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What could not be done, for a stable code and in a sentence; ``blame`` says whose it is to mend."""

    code: str
    sentence: str
    blame: str = "node"


def phase_of(event: str, fields: Mapping[str, Any], now: float) -> Phase | None:
    """The phase that an event of a job tells of, *now* (seconds since the epoch); None for most events."""
    if event not in _PHASES:
        return None
    known = _Known(fields)
    ms = fields.get("ms")
    began = now - (ms or 0.0) / 1000
    note = _NOTES.get(event, "").format_map(known)[:_MOST_TEXT]
    return Phase(name=_PHASES[event].format_map(known), at=began, ms=ms, note=note)


def with_phase(phases: tuple[Phase, ...], phase: Phase) -> tuple[Phase, ...]:
    """The phases with one more, as far as there is room."""
    same = sum(known.name == phase.name for known in phases)
    return phases if len(phases) >= MOST_PHASES or same >= _MOST_OF_A_USER else (*phases, phase)


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
