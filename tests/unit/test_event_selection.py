"""``pbsdock events``: which events, of which files, and what they come to."""

from __future__ import annotations

import gzip
import io
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pbsdock.admin.cli import main
from pbsdock.core.errors import BadValue
from pbsdock.events.selection import Selection, event_pattern, moment
from pbsdock.events.summary import Summary
from pbsdock.events.view import rotated, show, summarise

_NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _event(event: str = "job.started", **more: Any) -> dict[str, Any]:
    return {"ts": "2026-03-01T10:00:00.000000Z", "seq": 1, "event": event, "level": "info", "node": "n1", **more}


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(), True),
        (Selection(jobs=("7",)), True),
        (Selection(jobs=("7.vm", "8")), True),
        (Selection(jobs=("70", "vm")), False),
        (Selection(users=("bob", "alice")), True),
        (Selection(users=("ali",)), False),
        (Selection(nodes=("n1",)), True),
        (Selection(nodes=("n*",)), True),
        (Selection(nodes=("n", "n2")), False),
        (Selection(events=("job.*",)), True),
        (Selection(events=("image.*", "job.started")), True),
        (Selection(events=("job",)), False),
        (Selection(level="warning"), True),
        (Selection(level="error"), False),
        (Selection(since="2026-03-01T10:00:00.000000Z"), True),
        (Selection(since="2026-03-01T10:00:00.000001Z"), False),
        (Selection(users=("alice",), nodes=("n2",)), False),
    ],
)
def test_what_is_wanted(selection: Selection, wanted: bool) -> None:
    """Any value of an option, all options."""
    assert selection.wants(_event(job="7.vm", user="alice", level="warning")) is wanted


def test_an_event_without_what_is_asked_for_is_not_wanted() -> None:
    """A node's own events are of no job; a level of a later release is worth seeing."""
    assert not Selection(jobs=("7",)).wants(_event())
    assert not Selection(users=("None",)).wants(_event())
    assert Selection(level="error").wants(_event(level="critical"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-03-01T11:58:30.000000Z"),
        ("30m", "2026-03-01T11:30:00.000000Z"),
        ("2h", "2026-03-01T10:00:00.000000Z"),
        ("1d", "2026-02-28T12:00:00.000000Z"),
        ("2w", "2026-02-15T12:00:00.000000Z"),
        ("2026-02-28", "2026-02-28T00:00:00.000000Z"),
        ("2026-02-28T07:30", "2026-02-28T07:30:00.000000Z"),
        ("2026-02-28T07:30:00+02:00", "2026-02-28T05:30:00.000000Z"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    """Ago, or a date, in UTC."""
    assert moment(text, _NOW) == expected


@pytest.mark.parametrize("text", ["", "h", "2", "-1h", "2 h", "yesterday", "2026-13-01", "1h30m"])
def test_no_moment(text: str) -> None:
    """One sentence with the value and what is allowed."""
    with pytest.raises(BadValue) as caught:
        moment(text, _NOW)
    assert str(caught.value) == (
        f"--since: {text!r} is no time; expected a time ago, such as 30m, 2h or 1d, or a date, such as 2026-01-31 or"
        " 2026-01-31T12:00"
    )


def test_names_of_events() -> None:
    """A misspelled one is told with the nearest."""
    assert event_pattern("job.*") == "job.*"
    with pytest.raises(BadValue, match=r"^--event: no event is called 'job.refusd'; did you mean job.refused\?$"):
        event_pattern("job.refusd")
    with pytest.raises(BadValue, match=r"^--event: no event is called 'x'; docs/events.md lists them$"):
        event_pattern("x")


# -- files ------------------------------------------------------------------------------------------------------------


def _write(path: Path, *events: dict[str, Any], before: str = "", changed: float | None = None) -> None:
    data = "".join(f"{before}{json.dumps(event)}\n" for event in events).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    if changed is not None:
        os.utime(path, (changed, changed))


def test_rotated_files_are_read_as_far_back_as_is_asked(tmp_path: Path) -> None:
    """logrotate's numbers and dates, packed or not, oldest first; without --since the file alone."""
    now = time.time()
    _write(tmp_path / "e", _event(seq=5))
    _write(tmp_path / "e.1", _event(seq=4))
    _write(tmp_path / "e.2.gz", _event(seq=3))
    _write(tmp_path / "e-20260101.gz", _event(seq=2))
    _write(tmp_path / "e.10.gz", _event(seq=1), changed=now - 86400 * 700)
    _write(tmp_path / "e.bak", _event(seq=9))

    def seqs(**options: Any) -> list[int]:
        out = io.StringIO()
        assert show(tmp_path / "e", selection=Selection(**options), raw=True, out=out) == 0
        return [json.loads(line)["seq"] for line in out.getvalue().splitlines()]

    assert seqs() == [5]
    assert seqs(since="2026-02-01") == [2, 3, 4, 5]
    assert [path.name for path in rotated(tmp_path / "e", "2000")] == ["e-20260101.gz", "e.10.gz", "e.2.gz", "e.1"]
    os.truncate(tmp_path / "e.2.gz", 20)  # a compression that is under way
    assert seqs(since="2026-02-01") == [2, 4, 5]


def test_a_relayed_file_of_many_nodes(tmp_path: Path) -> None:
    """Whatever a relay has put in front of a line; each says of which node it is."""
    file = tmp_path / "site"
    events = [_event(node="n1", job="7.vm"), _event(node="n2", job="8.vm")]
    _write(file, *events, before="<134>1 2026-03-01T10:00:00Z n1 pbsdock - - - ")
    out, raw = io.StringIO(), io.StringIO()
    show(file, nodes=True, selection=Selection(nodes=("n2",)), out=out)
    show(file, raw=True, out=raw)

    assert (
        out.getvalue()
        == "2026-03-01 10:00:00.000 n2           8.vm                 -          job.started          The container runs.\n"
    )
    assert [json.loads(line) for line in raw.getvalue().splitlines()] == events


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options reach the selection; a file given needs no installation."""
    file = tmp_path / "site"
    _write(file, _event(node="n1", user="alice"), _event("job.fault", node="n2", level="error", code="x"))

    assert main(["events", "--file", str(file), "--json", "--user", "alice", "--user", "bob"]) == 0
    assert [json.loads(line)["node"] for line in capsys.readouterr().out.splitlines()] == ["n1"]
    assert main(["events", "--file", str(file), "--level", "error"]) == 0
    assert capsys.readouterr().out.split()[2] == "n2"
    assert main(["events", "--file", str(file), "--json", "--event", "job.f*", "--since", "2026-03-01"]) == 0
    assert [json.loads(line)["node"] for line in capsys.readouterr().out.splitlines()] == ["n2"]
    assert main(["events", "--file", str(file), "--summary", "--since", "2026-03-01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "now"], "--since: 'now' is no time; expected"),
        (["--event", "job"], "--event: no event is called 'job'"),
        (["--summary", "--follow"], "--summary is of what there is; it cannot --follow"),
    ],
)
def test_options_that_make_no_sense(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a sentence."""
    assert main(["events", "--file", "/nonexistent", *options]) == 2
    assert capsys.readouterr().err.startswith(f"pbsdock: {said}")


def test_where_nothing_is_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence, and no traceback."""
    assert main(["--paths", f"{tmp_path}/none", "events"]) == 2
    assert capsys.readouterr().err == (
        f"pbsdock: it is not known where the events are: [Errno 2] No such file or directory: '{tmp_path}/none'\n"
    )


# -- summary ----------------------------------------------------------------------------------------------------------


def _day() -> list[dict[str, Any]]:
    pulls = [_event("image.pulled", image=f"i{n}", ms=n * 1000, size_bytes=n << 20, node=f"n{n}") for n in range(1, 8)]
    return [
        _event("job.planned", user="alice"),
        _event("job.started", user="alice"),
        _event("container.oom", user="alice"),
        _event("job.finished", user="alice", outcome="ran"),
        _event("job.finished", user="bob", outcome="refused"),
        *[_event("job.refused", level="warning", user="bob", code="image-not-found")] * 2,
        _event("job.fault", level="error", code="pull-failed", node="n3"),
        _event("node.unhealthy", level="error", code="disk-full", node="n3"),
        _event("events.limited", of="client.refused", who="carol", count=40),
        _event("image.failed", level="warning"),
        *pulls,
        _event("engine.back", ts="2026-03-02T09:30:00.000000Z"),
    ]


def test_a_day_at_a_glance(tmp_path: Path) -> None:
    """Jobs, refusals by reason, faults by node, slowest pulls, noisiest users."""
    _write(tmp_path / "e", *_day())
    out = io.StringIO()
    assert summarise(tmp_path / "e", selection=Selection(), raw=False, out=out) == 0

    assert out.getvalue().splitlines() == [
        "From 2026-03-01 10:00 to 2026-03-02 09:30 UTC, 7 nodes; events: 14 info, 3 warning, 2 error",
        "",
        "Jobs            1 planned, 1 started, 2 over (1 ran, 1 refused), 1 out of memory",
        "Refused         2 image-not-found",
        "Fault           1 pull-failed on n3",
        "Out of service  n3: disk-full",
        "Pulls           7 done, 1 failed",
        "  slowest       7 s on n7: i7, 7 MiB",
        "  slowest       6 s on n6: i6, 6 MiB",
        "  slowest       5 s on n5: i5, 5 MiB",
        "  slowest       4 s on n4: i4, 4 MiB",
        "  slowest       3 s on n3: i3, 3 MiB",
        "Events of user  carol: 40",
        "Events of user  alice: 4",
        "Events of user  bob: 3",
        "Left out        40 events that users caused too often",
    ]


def test_a_summary_of_nothing_and_of_strange_events(tmp_path: Path) -> None:
    """Fields that are missing, or of another kind, are no reason to fail; nothing reaches the terminal but text."""
    summary = Summary()
    assert list(summary.lines()) == ["no events"]
    for name in ("job.finished", "job.refused", "job.fault", "image.pulled", "events.limited", "node.unhealthy"):
        summary.add({"event": name})
        summary.add({"event": name, "ms": "x", "count": "y", "size_bytes": None, "code": 3, "ts": 5})
    assert summary.to_dict()["pulls"] == {"done": 2, "failed": 0, "slowest": []}
    assert list(summary.lines())

    _write(tmp_path / "e", _event("job.refused", user="a\x1b[2J", code="x"))
    out = io.StringIO()
    summarise(tmp_path / "e", selection=Selection(), raw=False, out=out)
    assert "\x1b" not in out.getvalue()
