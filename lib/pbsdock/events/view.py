"""Show the event stream: filter it, follow it across rotations, print an aligned line for each event."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from pbsdock.events.register import EVENTS

_COLOURS = {"warning": "\033[33m", "error": "\033[31m"}
_RESET = "\033[0m"
_HEAD = ("ts", "seq", "event", "level", "node", "job", "incarnation", "user", "phase")
_POLL_S = 0.2


def show(
    file: Path,
    *,
    job: str | None,
    follow: bool,
    raw: bool,
    out: TextIO,
    pause: Callable[[], None] | None = None,
) -> int:
    """Print the stream; returns 1 if it does not exist or must not be read. *pause* waits for more lines."""
    colour = out.isatty()
    try:
        if not follow and not file.exists():
            print(f"pbsdock: there are no events yet in {file}", file=sys.stderr)
            return 1
        for line in lines(file, follow=follow, pause=pause):
            event = _parse(line)
            if event is not None and (job is None or _is_about(event, job)):
                print(line if raw else render(event, colour=colour), file=out, flush=follow)
    except PermissionError as error:
        if error.filename is None:
            raise
        print(f"pbsdock: {file} is for root and the group adm only; use sudo", file=sys.stderr)
        return 1
    return 0


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _is_about(event: dict[str, Any], job: str) -> bool:
    found = str(event.get("job", ""))
    return found == job or found.split(".", 1)[0] == job


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


def render(event: dict[str, Any], *, colour: bool) -> str:
    """One event as a line: time (UTC), job, user, event, what it means, details.

    Control characters, and whatever else is not printable, cannot reach the terminal.
    """
    moment = _plain(event.get("ts", "")).replace("T", " ")[:23]
    name = _plain(event.get("event", ""))
    text = (
        f"{moment:<23} {_plain(event.get('job', '-')):<20} {_plain(event.get('user', '-')):<10} {name:<20}"
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
