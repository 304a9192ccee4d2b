"""The processors through which structlog passes every event. ``EventStream`` puts them in order.

Each takes structlog's ``(logger, method name, event)`` and returns the event for the next one; the last returns the
line (structlog.org, "Processors").
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from pbsdock.core.redact import known
from pbsdock.events.limits import EventLimits
from pbsdock.events.register import EVENTS

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Event]

JOURNAL = "/run/systemd/journal/socket"
CUT = "…(truncated)"
REDACTED = "(redacted)"
_SECRET = ("secret", "token", "password", "cookie", "authorization")
_JOURNAL_FIELDS = ("event", "job", "incarnation", "user", "phase", "code", "container", "cgroup")
_PRIORITY = {"info": "6", "warning": "4", "error": "3"}  # syslog(3)
_ORDER = ("ts", "seq", "event", "level", "node", "job", "incarnation", "user", "phase", "ms")

# UTC with microseconds.
add_timestamp: Processor = structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True, key="ts")
_render_json = structlog.processors.JSONRenderer(serializer=json.dumps, ensure_ascii=True, separators=(",", ":"))


def limit(limits: EventLimits) -> Processor:
    """Drop events that a user causes too often; *limits* counts them."""

    def process(_logger: Any, _method: str, event: Event) -> Event:
        if not limits.admit(event["event"], event):
            raise structlog.DropEvent
        return event

    return process


def add_sequence(following: Callable[[], int]) -> Processor:
    """Add ``seq``, the number *following* returns; whoever writes the line moves it on."""

    def process(_logger: Any, _method: str, event: Event) -> Event:
        event["seq"] = following()
        return event

    return process


def check_schema(*, strict: bool) -> Processor:
    """Raise ValueError for an event or field that is not in the register; without *strict*, make it a warning."""

    def process(_logger: Any, _method: str, event: Event) -> Event:
        if mistake := _mistake(event):
            if strict:
                raise ValueError(mistake)
            if event["level"] == "info":
                event["level"] = "warning"
        return event

    return process


def _mistake(event: Event) -> str | None:
    if event["event"] not in EVENTS:
        return f"event {event['event']!r} is not in the register"
    strange = set(event) - {*_ORDER, *EVENTS[event["event"]][1]}
    return f"event {event['event']!r} has no field {min(strange)!r}" if strange else None


def order_fields(_logger: Any, _method: str, event: Event) -> Event:
    """Leave out fields that are None; the rest in the register's order, then by name."""
    registered = (*_ORDER, *EVENTS.get(event["event"], ("", ()))[1])
    names = (*registered, *sorted(set(event) - set(registered)))
    return {name: event[name] for name in names if event.get(name) is not None}


def to_scalars(_logger: Any, _method: str, event: Event) -> Event:
    """Leave numbers and booleans; everything else becomes text that is valid Unicode."""
    return {name: value if isinstance(value, bool | int | float) else _text(value) for name, value in event.items()}


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.encode("utf-8", "replace").decode()  # lone surrogates


def redact(_logger: Any, _method: str, event: Event) -> Event:
    """Take out the value of every field that is named like a secret, and live keys out of every text."""
    return {name: _redacted(name, value) for name, value in event.items()}


def _redacted(name: str, value: Any) -> Any:
    if any(word in name.lower() for word in _SECRET):
        return REDACTED
    return known.clean(value) if isinstance(value, str) else value


def truncate(max_field: int) -> Processor:
    """Cut every text to *max_field* characters, with a mark."""

    def process(_logger: Any, _method: str, event: Event) -> Event:
        return {name: _cut(value, max_field) if isinstance(value, str) else value for name, value in event.items()}

    return process


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


def send_to_journal(channel: socket.socket) -> Processor:
    """Send a copy to the systemd journal. Errors are ignored, because the file is the stream.

    *channel* is a datagram socket that does not block. The protocol: systemd.io/JOURNAL_NATIVE_PROTOCOL.
    """

    def process(_logger: Any, _method: str, event: Event) -> Event:
        try:
            channel.sendto(journal_datagram(event), JOURNAL)
        except OSError:
            pass
        return event

    return process


def journal_datagram(event: Event) -> bytes:
    """The bytes of one entry: the whole event as MESSAGE, and the fields that are searched for."""
    fields = {"MESSAGE": json.dumps(dict(event)), "SYSLOG_IDENTIFIER": "pbsdock"}
    fields["PRIORITY"] = _PRIORITY[str(event["level"])]
    fields |= {name.upper(): str(event[name]) for name in _JOURNAL_FIELDS if name in event}
    data = b""
    for name, value in fields.items():
        raw = value.encode()
        data += name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
    return data


def render(max_line: int) -> Callable[[Any, str, Event], str]:
    """The event as ASCII JSON of at most *max_line* characters: the longest text is halved until it fits."""

    def process(logger: Any, method: str, event: Event) -> str:
        line = str(_render_json(logger, method, dict(event)))
        while len(line) > max_line:
            longest = max((name for name in event if isinstance(event[name], str)), key=lambda name: len(event[name]))
            if len(event[longest]) <= 2 * len(CUT):
                break  # nothing left that cutting would shorten
            event[longest] = event[longest][: len(event[longest]) // 2] + CUT
            line = str(_render_json(logger, method, dict(event)))
        return line

    return process
