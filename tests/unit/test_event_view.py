"""The event stream for people: aligned lines, one job's, as they come."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from pbsdock.events import view as event_view
from pbsdock.events.selection import Selection
from pbsdock.events.view import lines, render, show

_REFUSED = {
    "ts": "2023-11-14T22:13:20.250000Z",
    "seq": 1,
    "event": "job.refused",
    "level": "warning",
    "node": "n1",
    "job": "7.vm",
    "user": "alice",
    "code": "x",
    "sentence": "no",
}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Enough(Exception):
    """The scene is over; a real reader would wait on."""


def _scene(*acts: Callable[[], object]) -> Callable[[], None]:
    """A pause in which the next thing happens to the file."""
    left = list(acts)

    def pause() -> None:
        if not left:
            raise _Enough
        left.pop(0)()

    return pause


def _follow(file: Path, *acts: Callable[[], object]) -> list[str]:
    found = []
    try:
        for line in lines(file, follow=True, pause=_scene(*acts)):
            found.append(line)
    except _Enough:
        return found
    raise AssertionError("a reader that follows never ends")


@contextmanager
def _nobody() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _append(file: Path, text: str) -> Callable[[], object]:
    def act() -> None:
        with open(file, "a") as stream:
            stream.write(text)

    return act


def test_event_with_its_own_sentence() -> None:
    """Time, job, user, event, what was said, the rest."""
    assert render(_REFUSED, colour=False) == (
        "2023-11-14 22:13:20.250 7.vm                 alice      job.refused          no [code=x]"
    )


def test_event_of_the_register() -> None:
    """An event without a sentence of its own is explained by the register."""
    event = {"ts": "2023-11-14T22:13:20.250000Z", "event": "engine.back", "ms": 1.5}

    assert render(event, colour=False) == (
        "2023-11-14 22:13:20.250 -                    -          engine.back          The Docker engine answers again. [ms=1.5]"
    )


def test_unknown_event() -> None:
    """A line of another release is shown with what it has."""
    assert render({"ts": "?", "event": "no.such", "a": 1}, colour=False) == (
        "?                       -                    -          no.such              [a=1]"
    )


def test_colour() -> None:
    """Only warnings and errors are coloured."""
    assert render(_REFUSED, colour=True) == f"\033[33m{render(_REFUSED, colour=False)}\033[0m"
    assert render({**_REFUSED, "level": "info"}, colour=True) == render(_REFUSED, colour=False)


def test_nothing_reaches_the_terminal_but_text() -> None:
    """Escape sequences, C1 controls, line ends and direction marks are shown as question marks, in keys as well."""
    event = {**_REFUSED, "job": "7\x1b[2J", "user": "a\nb", "event": "e\x9b", "sentence": "s\u202ex", "k\r": "\x7f"}

    assert render(event, colour=False) == (
        "2023-11-14 22:13:20.250 7?[2J                a?b        e?                   s?x [code=x k?=?]"
    )


def test_show_filters_by_job(tmp_path: Path) -> None:
    """By whole id or by number alone; a number is not a prefix; what is no event is passed over."""
    events = [{**_REFUSED, "job": job} for job in ("7.vm", "70.vm", "7.other")] + [{"event": "engine.back"}]
    file = tmp_path / "e"
    file.write_text("".join(f"{json.dumps(one)}\n" for one in events) + "no json\n[]\n3\n")

    for job, shown in (
        ("7", ["7.vm", "7.other"]),
        ("7.vm", ["7.vm"]),
        ("8", []),
        (None, ["7.vm", "70.vm", "7.other", None]),
    ):
        out = io.StringIO()
        assert show(file, selection=Selection(jobs=(job,) if job else ()), raw=True, out=out) == 0
        assert [json.loads(line).get("job") for line in out.getvalue().splitlines()] == shown


def test_show_colours_on_a_terminal_only(tmp_path: Path) -> None:
    """A pipe gets plain text; raw lines are never touched."""
    file = tmp_path / "e"
    file.write_text(json.dumps(_REFUSED) + "\n")
    terminal, pipe, raw = _Terminal(), io.StringIO(), _Terminal()
    show(file, out=terminal)
    show(file, out=pipe)
    show(file, raw=True, out=raw)

    assert terminal.getvalue() == render(_REFUSED, colour=True) + "\n"
    assert pipe.getvalue() == render(_REFUSED, colour=False) + "\n"
    assert raw.getvalue() == json.dumps(_REFUSED) + "\n"


def test_no_events_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stream that never began is told."""
    assert show(tmp_path / "e", out=io.StringIO()) == 1
    assert capsys.readouterr().err == f"pbsdock: there are no events yet in {tmp_path}/e\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody who must not read")
@pytest.mark.parametrize("closed", ["file", "directory"])
def test_not_for_everybody(capsys: pytest.CaptureFixture[str], closed: str) -> None:
    """Whoever must not read the file, or not even see it, is told who may."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "e"
        file.write_text("{}\n")
        file.chmod(0o640)
        Path(place).chmod(0o755 if closed == "file" else 0o750)
        with _nobody():
            code = show(file, out=io.StringIO())

    assert (code, capsys.readouterr().err) == (1, f"pbsdock: {file} is for root and the group adm only; use sudo\n")


def test_half_a_line_is_no_line_yet(tmp_path: Path) -> None:
    """Neither when read once, nor when its rest comes later; a carriage return ends nothing."""
    file = tmp_path / "e"
    file.write_bytes(b"a\r\xff\nb\nc")

    assert list(lines(file, follow=False)) == ["a\r\ufffd", "b"]
    assert _follow(file, _append(file, "d"), _append(file, "\n")) == ["a\r\ufffd", "b", "cd"]


def test_follow_waits_for_the_file(tmp_path: Path) -> None:
    """The file may come later."""
    file = tmp_path / "e"

    assert list(lines(file, follow=False)) == []
    assert _follow(file, lambda: None, _append(file, "a\n")) == ["a"]


def test_follow_survives_rotation(tmp_path: Path) -> None:
    """What was written before the file was moved is shown; half a line of it is not joined to the new file's first."""
    file = tmp_path / "e"
    file.write_text("a\n")

    def rotate() -> None:
        _append(file, "b\nhalf")()
        file.rename(tmp_path / "e.1")

    assert _follow(file, rotate, _append(file, "c\n")) == ["a", "b", "c"]


def test_follow_survives_a_rotation_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line written after the last read and before the file was moved is not lost."""
    file = tmp_path / "e"
    file.write_text("a\n")
    real = event_view._has_moved
    acts = [_append(file, "late\n"), lambda: file.rename(tmp_path / "e.1"), lambda: file.write_text("b\n")]

    def has_moved(stream: BinaryIO, path: Path) -> bool:
        while acts:
            acts.pop(0)()
        return real(stream, path)

    monkeypatch.setattr(event_view, "_has_moved", has_moved)

    assert _follow(file) == ["a", "late", "b"]


def test_follow_survives_truncation(tmp_path: Path) -> None:
    """A file that was emptied in place is read from its beginning."""
    file = tmp_path / "e"
    file.write_text("aaaa\n")

    assert _follow(file, lambda: file.write_text("b\n")) == ["aaaa", "b"]
