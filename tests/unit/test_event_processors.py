"""Each processor of the event stream by itself, and the line they make together."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from pbsdock.core.redact import known
from pbsdock.events import processors
from pbsdock.events.limits import EventLimits
from pbsdock.events.register import AT_WILL
from pbsdock.events.stream import EventStream


def _through(processor: Any, **fields: Any) -> Any:
    return processor(None, "info", {"event": "engine.back", "level": "info", **fields})


def test_limit_drops_what_comes_too_often() -> None:
    """As many events of a user as the register allows at once, then none; events no user can cause always pass."""
    limit = processors.limit(EventLimits(lambda: 0.0))
    burst = AT_WILL["client.refused"][0]
    refused = {"event": "client.refused", "uid": 1001}
    for _ in range(burst):
        assert limit(None, "warning", dict(refused)) == refused

    with pytest.raises(structlog.DropEvent):
        limit(None, "warning", dict(refused))
    assert _through(limit) == {"event": "engine.back", "level": "info"}


def test_timestamp_is_utc_with_microseconds() -> None:
    """The time of the call, in the form of the schema."""
    before = datetime.now(UTC)
    found = datetime.strptime(_through(processors.add_timestamp)["ts"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)

    assert before <= found <= datetime.now(UTC)


def test_sequence() -> None:
    """Whatever number is next when the event passes."""
    numbers = iter((7, 8))
    add = processors.add_sequence(lambda: next(numbers))

    assert [_through(add)["seq"], _through(add)["seq"]] == [7, 8]


@pytest.mark.parametrize(
    ("fields", "level", "mistake"),
    [
        ({}, "info", None),
        ({"level": "error"}, "error", None),
        ({"odd": 1}, "warning", "event 'engine.back' has no field 'odd'"),
        ({"odd": 1, "level": "error"}, "error", "event 'engine.back' has no field 'odd'"),
        ({"event": "no.such"}, "warning", "event 'no.such' is not in the register"),
    ],
)
def test_check_schema(fields: dict[str, Any], level: str, mistake: str | None) -> None:
    """What the register does not have is at least a warning, or an error to whoever asks for that."""
    assert _through(processors.check_schema(strict=False), **fields)["level"] == level
    if mistake is None:
        _through(processors.check_schema(strict=True), **fields)
    else:
        with pytest.raises(ValueError, match=f"^{mistake}$"):
            _through(processors.check_schema(strict=True), **fields)


def test_order_of_fields() -> None:
    """Common fields, the event's own, unknown ones by name; None is left out, nothing else that is empty."""
    found = processors.order_fields(
        None,
        "info",
        {"z": 0, "sentence": "", "code": "x", "a": False, "user": None, "job": "7", "event": "job.refused"},
    )

    assert list(found.items()) == [
        ("event", "job.refused"),
        ("job", "7"),
        ("code", "x"),
        ("sentence", ""),
        ("a", False),
        ("z", 0),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, 1), (True, True), (0.5, 0.5), (b"a\xff", "a\ufffd"), (Path("/x"), "/x"), ("\ud800", "?"), ([1], "[1]")],
)
def test_scalars(value: object, text: object) -> None:
    """Numbers and booleans as they are, text that can be encoded, and str() of anything else."""
    found = _through(processors.to_scalars, code=value)["code"]

    assert found == text
    assert type(found) is type(text)


def test_redact() -> None:
    """A field with a secret's name has no value, whatever its type; a live key is in no text."""
    known.add("test", "live-key-0123456789")
    try:
        found = _through(processors.redact, Session_Token="x", password=7, reason="a live-key-0123456789 b", code=5)
    finally:
        known.forget("test")

    assert found["Session_Token"] == found["password"] == "(redacted)"
    assert (found["reason"], found["code"]) == ("a [redacted] b", 5)


def test_truncate() -> None:
    """To the length that is allowed, the mark included; numbers stay."""
    found = _through(processors.truncate(20), code="x" * 21, reason="x" * 20, count=10**30)

    assert (found["code"], found["reason"], found["count"]) == ("x" * 8 + "…(truncated)", "x" * 20, 10**30)


@pytest.mark.parametrize("most", [200, 1000])
def test_render_cuts_the_longest_texts(most: int) -> None:
    """A line is as short as asked while there are texts to cut, and is the same event."""
    line = _through(processors.render(most), code="x" * 500, reason="\n" * 900, count=3)

    assert len(line) <= most
    assert line.isascii()
    assert list(json.loads(line)) == ["event", "level", "code", "reason", "count"]


def test_render_gives_up_where_nothing_can_be_cut() -> None:
    """A line of numbers stays too long and whole."""
    assert json.loads(_through(processors.render(10), count=3)) == {"event": "engine.back", "level": "info", "count": 3}


def test_journal_datagram() -> None:
    """Fields with their length in eight bytes, so that a line break in a value begins nothing."""
    data = processors.journal_datagram({"event": "job.refused", "level": "warning", "user": "a\nPRIORITY=0", "x": 1})

    assert b"USER\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n" in data
    assert b"PRIORITY\n\x01\0\0\0\0\0\0\0004\n" in data
    assert b"\nX\n" not in data


def test_journal_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is the event, which goes on unchanged, also where nobody listens any more."""
    monkeypatch.setattr(processors, "JOURNAL", str(tmp_path / "socket"))
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(str(tmp_path / "socket"))
        sender.setblocking(False)
        send = processors.send_to_journal(sender)
        event = {"event": "engine.back", "level": "info"}

        assert _through(send) == event
        assert receiver.recv(65536) == processors.journal_datagram(event)
        receiver.close()
        assert _through(send) == event


def test_line_of_all_processors(tmp_path: Path) -> None:
    """Exactly this line but for its time."""
    stream = EventStream(tmp_path / "e", node="n1", max_field=30, max_line=320)
    stream.emit("no.such", job="7.vm", user="ä", ms=1.5, secret=5, sentence="x" * 40, odd=b"\xff", code=None)
    line = (tmp_path / "e").read_text()

    assert line.replace(json.loads(line)["ts"], "TIME") == (
        '{"ts":"TIME","seq":1,"event":"no.such","level":"warning","node":"n1","job":"7.vm","user":"\\u00e4","ms":1.5,'
        '"odd":"\\ufffd","secret":"(redacted)","sentence":"' + "x" * 18 + '\\u2026(truncated)"}\n'
    )
