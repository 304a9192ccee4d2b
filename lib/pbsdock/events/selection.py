"""Which events somebody wants to see. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from pbsdock.core.errors import BadValue
from pbsdock.events.register import EVENTS, LEVELS

_AGO = re.compile(r"([0-9]{1,6})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What an event must be, all of it; empty: anything. ``since`` is in the form of an event's ``ts``."""

    jobs: tuple[str, ...] = ()  # whole ids, or their numbers alone
    users: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()  # names, or patterns with * and ?
    events: tuple[str, ...] = ()  # the same
    level: str = "info"  # the least
    since: str = ""

    def wants(self, event: Mapping[str, Any]) -> bool:
        """Whether *event* is one of them."""
        return (
            (not self.since or str(event.get("ts", "")) >= self.since)
            and _rank(event.get("level")) >= _rank(self.level)
            and (not self.jobs or any(_is_about(event, job) for job in self.jobs))
            and (not self.users or str(event.get("user", "")) in self.users)
            and (not self.nodes or _matches(event.get("node"), self.nodes))
            and (not self.events or _matches(event.get("event"), self.events))
        )


def _rank(level: object) -> int:
    """A level that a later release has is worth seeing."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def _is_about(event: Mapping[str, Any], job: str) -> bool:
    found = str(event.get("job", ""))
    return found == job or found.split(".", 1)[0] == job


def _matches(value: object, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(str(value or ""), pattern) for pattern in patterns)


def event_pattern(text: str) -> str:
    """An event's name, or a pattern of names. Raises BadValue for one that no event has."""
    if any(fnmatchcase(name, text) for name in EVENTS):
        return text
    near = difflib.get_close_matches(text, EVENTS, 1)
    hint = f"; did you mean {near[0]}?" if near else "; docs/events.md lists them"
    raise BadValue(f"--event: no event is called {text!r}{hint}")


def moment(text: str, now: datetime) -> str:
    """How an event of that moment has it in ``ts``: *text* is a time ago, as 90s, 30m, 2h, 1d or 2w, or a date with or
    without a time (ISO 8601; UTC, unless it says otherwise). Raises BadValue."""
    if found := _AGO.fullmatch(text):
        when = now - timedelta(seconds=int(found.group(1)) * _SECONDS[found.group(2)])
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            said = "expected a time ago, such as 30m, 2h or 1d, or a date, such as 2026-01-31 or 2026-01-31T12:00"
            raise BadValue(f"--since: {text!r} is no time; {said}") from None
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
