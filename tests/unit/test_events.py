"""The event stream: one line an event, whatever is in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.events import register as event_names
from pbsdock.events.processors import Event
from pbsdock.events.stream import EventStream
from tests.conftest import ROOT

_VALIDATOR = jsonschema.Draft202012Validator(
    event_names.schema(strict=True)
)  # made once: it costs far more than a line


def _at_a_fixed_time(_logger: Any, _method: str, event: Event) -> Event:
    event["ts"] = "2023-11-14T22:13:20.250000Z"
    return event


def _stream(path: Path, **options: Any) -> EventStream:
    return EventStream(path, node="n1", add_timestamp=_at_a_fixed_time, **options)


def test_whole_line(tmp_path: Path) -> None:
    """Exactly this line, in this order."""
    stream = _stream(tmp_path / "e")
    stream.emit("job.refused", job="7.vm", user="alice", code="x", sentence="no")

    assert (tmp_path / "e").read_text() == (
        '{"ts":"2023-11-14T22:13:20.250000Z","seq":1,"event":"job.refused","level":"info","node":"n1","job":"7.vm",'
        '"user":"alice","code":"x","sentence":"no"}\n'
    )
    assert (tmp_path / "e").stat().st_mode & 0o777 == 0o640


def test_numbers_go_on_after_a_restart_and_a_rotation(tmp_path: Path) -> None:
    """seq grows by one over restarts and rotated files."""
    path = tmp_path / "e"
    _stream(path).emit("engine.back")
    stream = _stream(path)
    stream.emit("engine.back")
    path.rename(tmp_path / "e.1")
    stream.emit("engine.back")
    _stream(path).emit("engine.back")

    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == [3, 4]


@given(text=st.text())
def test_nothing_forges_a_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text in any field makes exactly one parseable line."""
    path = tmp_path_factory.mktemp("e") / "e"
    _stream(path).emit("job.refused", job=text, user=text, code=text, sentence=text)

    raw = path.read_bytes()
    assert raw.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in raw[:-1])
    _VALIDATOR.validate(json.loads(raw))


def test_caps(tmp_path: Path) -> None:
    """Long fields and lines are cut and say so."""
    path = tmp_path / "e"
    _stream(path, max_field=100, max_line=1024).emit("job.refused", code="y" * 90, sentence="x" * 500)
    found = json.loads(path.read_text())

    assert found["sentence"] == "x" * 88 + "…(truncated)"
    assert len(path.read_text()) < 1025


def test_full_disk_is_survived_and_told(tmp_path: Path) -> None:
    """Lines that cannot be written are counted, and the next one that can says so."""
    stream = _stream(tmp_path / "e")
    file = stream._file
    file._open = lambda: None  # type: ignore[method-assign]
    with open("/dev/full", "wb") as full:
        file._fd = full.fileno()
        stream.emit("engine.back")
        stream.emit("engine.back")
        assert stream._dropped >= 2
    del file._open
    file._fd = -1
    stream.emit("engine.back")

    first = json.loads((tmp_path / "e").read_text().splitlines()[0])
    assert (first["event"], first["level"]) == ("events.dropped", "warning")
    assert first["count"] >= 2


def test_short_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a disk that fills up took of a line is taken back, so that the next line stands alone."""
    stream = _stream(tmp_path / "e")
    stream.emit("engine.back")
    monkeypatch.setattr("pbsdock.events.file.os.write", lambda fd, data: os.pwrite(fd, data[:10], 1 << 20))
    stream.emit("engine.back")
    monkeypatch.undo()
    stream.emit("engine.back")

    events = [json.loads(line) for line in (tmp_path / "e").read_text().splitlines()]
    assert [event["event"] for event in events] == ["engine.back", "events.dropped", "engine.back"]


def test_line_cut_by_a_crash_is_ended(tmp_path: Path) -> None:
    """A new agent begins on a line of its own."""
    (tmp_path / "e").write_text('{"seq": 7}\n{"event": "agent.st')
    _stream(tmp_path / "e").emit("engine.back")

    *_, half, last = (tmp_path / "e").read_text().splitlines()
    assert half == '{"event": "agent.st'
    assert json.loads(last)["seq"] == 8


def test_unknown_events_and_fields_are_mistakes(tmp_path: Path) -> None:
    """Only what is in the register is emitted, in tests; in a job's life a slip is a warning and ends nothing."""
    stream = _stream(tmp_path / "e", strict=True)
    with pytest.raises(ValueError, match="^event 'no.such' is not in the register$"):
        stream.emit("no.such")
    with pytest.raises(ValueError, match="^event 'engine.back' has no field 'odd'$"):
        stream.emit("engine.back", odd=1)

    _stream(tmp_path / "e").emit("no.such", odd=1)
    found = json.loads((tmp_path / "e").read_text())
    assert (found["event"], found["level"], found["odd"]) == ("no.such", "warning", 1)


def test_events_and_fields_are_only_added() -> None:
    """Whoever reads the stream by version 1 of the schema reads that of every release that has it. What is new goes into
    the file of this test with the release that first has it."""
    published = json.loads((ROOT / "tests/unit/events_version_1.json").read_text())
    gone = [
        f"{event} {field}"
        for event, fields in published.items()
        for field in fields
        if field not in event_names.EVENTS.get(event, ("", ()))[1]
    ]

    assert event_names.SCHEMA_VERSION == 1
    assert set(published) - set(event_names.EVENTS) == set()
    assert gone == []


def test_an_older_reader_takes_what_is_added() -> None:
    """The published schema lets later events and fields pass, and nothing that breaks its own; the strict one neither."""
    published = jsonschema.Draft202012Validator(event_names.schema())
    line = {"ts": "2023-11-14T22:13:20.250000Z", "seq": 1, "event": "engine.back", "level": "info", "node": "n1"}
    later = ({**line, "new_field": 1}, {**line, "event": "job.later", "x": 1})

    assert all(published.is_valid(one) for one in (line, *later))
    assert not any(published.is_valid({**line, **wrong}) for wrong in ({"seq": "x"}, {"ts": "now"}, {"event": 3}))
    assert _VALIDATOR.is_valid(line)
    assert not any(_VALIDATOR.is_valid(one) for one in later)


def test_schema_file_and_manual_are_the_register() -> None:
    """What is shipped and documented is what is emitted."""
    assert json.loads((ROOT / "lib/pbsdock/events/schema.json").read_text()) == event_names.schema()
    assert event_names.documented().strip() in (ROOT / "docs/events.md").read_text()
