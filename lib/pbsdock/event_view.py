"""Show the event stream to a person: filter, follow across rotations, one aligned line each."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_COLOURS = {"warning": "\033[33m", "error": "\033[31m"}
_RESET = "\033[0m"
_HEAD = ("ts", "seq", "event", "level", "node", "job", "incarnation", "user", "phase")
_POLL_S = 0.2


def show(file: Path, *, job: str | None, follow: bool, raw: bool, out: TextIO) -> int:
    """Print the stream; returns 1 if it does not exist."""
    if not follow and not file.exists():
        print(f"pbsdock: there are no events yet in {file}", file=sys.stderr)
        return 1
    colour = out.isatty()
    for line in lines(file, follow=follow):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if job is not None and not _is_about(event, job):
            continue
        print(line if raw else render(event, colour=colour), file=out, flush=follow)
    return 0


def _is_about(event: dict[str, Any], job: str) -> bool:
    found = str(event.get("job", ""))
    return found == job or found.split(".", 1)[0] == job


def lines(file: Path, *, follow: bool) -> Iterator[str]:
    """Whole lines of a file that may be rotated away; with *follow* it never ends."""
    stream = None
    rest = ""
    while True:
        if stream is None:
            try:
                stream = open(file, encoding="utf-8", errors="replace")
            except FileNotFoundError:
                if not follow:
                    return
                time.sleep(_POLL_S)
                continue
        chunk = stream.read()
        *whole, rest = (rest + chunk).split("\n")
        yield from whole
        if not follow:
            stream.close()
            return
        if not chunk:
            try:
                rotated = os.stat(file).st_ino != os.fstat(stream.fileno()).st_ino
            except FileNotFoundError:
                rotated = True
            if rotated:
                stream.close()
                stream = None
            time.sleep(_POLL_S)


def render(event: dict[str, Any], *, colour: bool) -> str:
    """One event as a line: time, job, user, event, details. Control characters cannot reach the terminal."""
    moment = str(event.get("ts", ""))[11:23]
    details = " ".join(f"{key}={_plain(value)}" for key, value in event.items() if key not in _HEAD)
    text = (
        f"{moment:<12} {_plain(event.get('job', '-')):<20} {_plain(event.get('user', '-')):<10}"
        f" {_plain(event.get('event', '')):<20} {details}"
    ).rstrip()
    shade = _COLOURS.get(str(event.get("level")))
    return f"{shade}{text}{_RESET}" if colour and shade else text


def _plain(value: Any) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))
