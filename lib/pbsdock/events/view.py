"""Show the event stream: filter it, follow it across rotations, print an aligned line for each event."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pbsdock.events.register import EVENTS
from pbsdock.events.selection import Selection
from pbsdock.events.summary import Summary

_COLOURS = {"warning": "\033[33m", "error": "\033[31m"}
_RESET = "\033[0m"
_HEAD = ("ts", "seq", "event", "level", "node", "job", "incarnation", "user", "phase")
_POLL_S = 0.2
_STDIN = "-"
_EVERYTHING = Selection()


def show(
    file: Path,
    *,
    selection: Selection = _EVERYTHING,
    follow: bool = False,
    raw: bool = False,
    nodes: bool = False,
    out: TextIO,
    pause: Callable[[], None] | None = None,
) -> int:
    """Print those events of the stream; returns 1 if it does not exist or must not be read.

    With *nodes* each line says of which node it is. *pause* waits for more lines.
    """
    colour = out.isatty()

    def act() -> None:
        for line, event in _found(file, selection, follow=follow, pause=pause):
            print(line if raw else render(event, colour=colour, node=nodes), file=out, flush=follow)

    return _read(file, act, follow=follow)


def summarise(file: Path, *, selection: Selection, raw: bool, out: TextIO) -> int:
    """Print those events of the stream at a glance; returns 1 if it does not exist or must not be read."""
    summary = Summary()

    def act() -> None:
        for _line, event in _found(file, selection, follow=False, pause=None):
            summary.add(event)
        told: Iterable[str] = [json.dumps(summary.to_dict(), indent=1)] if raw else map(_plain, summary.lines())
        for line in told:
            print(line, file=out)

    return _read(file, act, follow=False)


def _read(file: Path, act: Callable[[], None], *, follow: bool) -> int:
    try:
        if not follow and str(file) != _STDIN and not file.exists():
            print(f"pbsdock: there are no events yet in {file}", file=sys.stderr)
            return 1
        act()
    except PermissionError as error:
        if error.filename is None:
            raise
        print(f"pbsdock: {file} is for root and the group adm only; use sudo", file=sys.stderr)
        return 1
    return 0


def _found(
    file: Path, selection: Selection, *, follow: bool, pause: Callable[[], None] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines that are wanted, and their events."""
    for line in _all_lines(file, selection.since, follow=follow, pause=pause):
        found = _parse(line)
        if found is not None and selection.wants(found[1]):
            yield found


def _all_lines(file: Path, since: str, *, follow: bool, pause: Callable[[], None] | None) -> Iterator[str]:
    if str(file) == _STDIN:
        for line in sys.stdin.buffer:
            yield line.rstrip(b"\n").decode("utf-8", "replace")
        return
    for older in rotated(file, since) if since else ():
        with suppress(FileNotFoundError, EOFError), _opened(older) as stream:  # rotated once more, or cut short
            for line in stream:
                yield line.rstrip(b"\n").decode("utf-8", "replace")
    yield from lines(file, follow=follow, pause=pause)


def rotated(file: Path, since: str) -> list[Path]:
    """What logrotate has made of *file*, as far as it has lines of after *since* (an event's ``ts``), oldest first."""
    numbered, dated = [], []
    for path in file.parent.glob(f"{file.name}[.-]*"):
        if found := re.fullmatch(r"\.(\d+)(\.gz)?", path.name.removeprefix(file.name)):
            numbered.append((-int(found.group(1)), path))
        elif re.fullmatch(r"-\d{8,}(\.gz)?", path.name.removeprefix(file.name)):
            dated.append((path.name, path))
    return [path for _, path in [*sorted(dated), *sorted(numbered)] if _changed_at(path) >= since]


def _changed_at(path: Path) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S.999999Z", time.gmtime(path.stat().st_mtime))
    except FileNotFoundError:
        return ""


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _parse(line: str) -> tuple[str, dict[str, Any]] | None:
    """A line's JSON and what it says; whatever a relay has put in front of it is passed over."""
    start = line.find("{")
    try:
        event = json.loads(line[start:]) if start >= 0 else None
    except ValueError:
        return None
    return (line[start:], event) if isinstance(event, dict) else None


def lines(file: Path, *, follow: bool, pause: Callable[[], None] | None = None) -> Iterator[str]:
    """Whole lines of a file that may be rotated away; with *follow* it never ends. Raises OSError."""
    wait = pause or (lambda: time.sleep(_POLL_S))
    while True:
        try:
            with open(file, "rb") as stream:
                yield from _of(stream, file, follow, wait)
        except FileNotFoundError:
            if follow:
                wait()
        if not follow:
            return


def _of(stream: BinaryIO, file: Path, follow: bool, wait: Callable[[], None]) -> Iterator[str]:
    """The lines of an open file, to its end or, with *follow*, until the file has been replaced."""
    rest = b""
    moved = False
    while True:
        chunk = stream.readline()
        rest += chunk
        if rest.endswith(b"\n"):
            yield rest[:-1].decode("utf-8", "replace")
            rest = b""
        elif not chunk and (moved or not follow):
            return
        elif not chunk:
            moved = _has_moved(stream, file)  # then once more to the end: the writer may have been faster
            if not moved:
                wait()


def _has_moved(stream: BinaryIO, file: Path) -> bool:
    held = os.fstat(stream.fileno())
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return True
    return (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino) or found.st_size < stream.tell()


def render(event: dict[str, Any], *, colour: bool, node: bool = False) -> str:
    """One event as a line: time (UTC), with *node* where, job, user, event, what it means, details.

    Control characters, and whatever else is not printable, cannot reach the terminal.
    """
    moment = _plain(event.get("ts", "")).replace("T", " ")[:23]
    name = _plain(event.get("event", ""))
    where = f" {_plain(event.get('node', '-')):<12}" if node else ""
    text = (
        f"{moment:<23}{where} {_plain(event.get('job', '-')):<20} {_plain(event.get('user', '-')):<10} {name:<20}"
        f" {_sentence(name, event)}"
    ).rstrip()
    shade = _COLOURS.get(str(event.get("level")))
    return f"{shade}{text}{_RESET}" if colour and shade else text


def _sentence(name: str, event: dict[str, Any]) -> str:
    """The event's sentence, or the register's description; then its other fields."""
    own = event.get("sentence")
    text = _plain(own) if own else EVENTS.get(name, ("",))[0]
    details = " ".join(f"{_plain(key)}={_plain(event[key])}" for key in event if key not in (*_HEAD, "sentence"))
    return f"{text} [{details}]".lstrip() if details else text


def _plain(value: Any) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
