"""The event stream: one JSON object per line, for a file and the systemd journal.

Text from jobs (names, images, user names) is data: JSON escapes it, lengths are capped, and nothing a user writes can
begin a line of its own.
"""

from __future__ import annotations

import errno
import grp
import json
import os
import socket
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pbsdock.config.tables import EventsConfig
from pbsdock.core.redact import known
from pbsdock.events.limits import EventLimits
from pbsdock.events.register import EVENTS

_SECRET = ("secret", "token", "password", "cookie", "authorization")
_CUT = "…(truncated)"
_JOURNAL = "/run/systemd/journal/socket"
_JOURNAL_FIELDS = ("event", "job", "incarnation", "user", "phase", "code", "container", "cgroup")
_PRIORITY = {"info": "6", "warning": "4", "error": "3"}
_ORDER = ("ts", "seq", "event", "level", "node", "job", "incarnation", "user", "phase", "ms")


class _Sink:
    """What structlog writes to: one method."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write


class EventStream:
    """Where events go. ``emit`` may be called from any thread and never raises for a full disk.

    With *strict* an event or field that is not in the register raises ValueError, which is for tests; otherwise it is a
    warning in the stream, because a slip in a report must not end a job.
    """

    def __init__(
        self,
        file: Path,
        *,
        node: str,
        journald: bool = False,
        max_field: int = 4096,
        max_line: int = 32768,
        clock: Callable[[], float] = time.time,
        strict: bool = False,
        limits: EventLimits | None = None,
    ) -> None:
        self.file = file
        self.node = node
        self.max_field = max_field
        self.max_line = max_line
        self.clock = clock
        self.strict = strict
        self.journal = _journal() if journald else None
        self._lock = threading.RLock()
        self._fd = -1
        self._identity: tuple[int, int] = (0, 0)
        self._dropped = 0
        self._seq = _last_seq(file)
        self._limits = limits or EventLimits()
        self._render_json = structlog.processors.JSONRenderer(
            serializer=json.dumps, ensure_ascii=True, separators=(",", ":")
        )
        self._log: structlog.BoundLogger = structlog.wrap_logger(
            _Sink(self._append),
            processors=[self._limit, self._stamp, self._clean, self._to_journal, self._render],
            wrapper_class=structlog.BoundLogger,
        )

    @classmethod
    def from_config(cls, config: EventsConfig, log_dir: Path, node: str) -> EventStream:
        """Open the stream a site has configured."""
        return cls(
            Path(config.file) if config.file else log_dir / "events.jsonl",
            node=node,
            journald=config.journald,
            max_field=config.max_field,
            max_line=config.max_line,
        )

    def emit(self, event: str, *, level: str = "info", **fields: Any) -> None:
        """Write one event; fields that are None are left out, and so is what a user causes too often."""
        with self._lock:
            if self._dropped and event != "events.dropped":
                count, self._dropped = self._dropped, 0
                if not self._write("events.dropped", "warning", {"count": count}):
                    self._dropped = count
            if not self._write(event, level, fields):
                self._dropped += 1

    def tell_limited(self, *, now: bool = False) -> None:
        """Write how many events were left out, if it is time, or *now* because there will be no other."""
        with self._lock:
            for left_out in self._limits.due(now=now):
                self.emit("events.limited", level="warning", **left_out)

    def _write(self, event: str, level: str, fields: dict[str, Any]) -> bool:
        try:
            self._log.write(event, level=level, **fields)
        except OSError:
            return False
        return True

    def _append(self, line: str) -> None:
        self._open()
        data = line.encode() + b"\n"
        written = os.write(self._fd, data)
        if written != len(data):
            # Half a line would swallow the next one.
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, "short write")
        self._seq += 1

    def _limit(self, _logger: Any, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if not self._limits.admit(entry["event"], entry):
            raise structlog.DropEvent
        return entry

    def _stamp(self, _logger: Any, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        entry["ts"] = datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        entry["seq"] = self._seq + 1
        entry["node"] = self.node
        if wrong := _mistake(entry):
            if self.strict:
                raise ValueError(wrong)
            entry["level"] = "warning" if entry["level"] == "info" else entry["level"]
        return entry

    def _clean(self, _logger: Any, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        named = (*_ORDER, *EVENTS.get(entry["event"], ("", ()))[1])
        keys = (*named, *sorted(set(entry) - set(named)))
        return {key: self._value(key, entry[key]) for key in keys if entry.get(key) is not None}

    def _value(self, key: str, value: Any) -> Any:
        if any(one in key.lower() for one in _SECRET):
            return "(redacted)"
        if isinstance(value, bool | int | float):
            return value
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        text = known.clean(text.encode("utf-8", "replace").decode())
        return text if len(text) <= self.max_field else text[: self.max_field - len(_CUT)] + _CUT

    def _to_journal(self, _logger: Any, _name: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if self.journal is not None:
            _send(self.journal, entry)
        return entry

    def _render(self, logger: Any, name: str, entry: MutableMapping[str, Any]) -> str:
        line = str(self._render_json(logger, name, dict(entry)))
        while len(line) > self.max_line:
            longest = max((key for key in entry if isinstance(entry[key], str)), key=lambda key: len(entry[key]))
            if len(entry[longest]) <= 2 * len(_CUT):
                break  # nothing left that cutting would shorten
            entry[longest] = entry[longest][: len(entry[longest]) // 2] + _CUT
            line = str(self._render_json(logger, name, dict(entry)))
        return line

    def _open(self) -> None:
        try:
            found = os.stat(self.file, follow_symlinks=False)
            if self._fd >= 0 and (found.st_dev, found.st_ino) == self._identity:
                return
        except FileNotFoundError:
            pass
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fd = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        os.fchmod(fd, 0o640)
        try:
            os.fchown(fd, 0, grp.getgrnam("adm").gr_gid)
        except (KeyError, PermissionError):
            pass  # a host without the group, or a test without root: the mode alone protects it
        found = os.fstat(fd)
        if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
            os.write(fd, b"\n")  # a crash has cut the last line short
        self._identity = (found.st_dev, found.st_ino)
        self._fd = fd


def _mistake(entry: MutableMapping[str, Any]) -> str | None:
    if entry["event"] not in EVENTS:
        return f"event {entry['event']!r} is not in the register"
    strange = set(entry) - {*_ORDER, *EVENTS[entry["event"]][1]}
    return f"event {entry['event']!r} has no field {min(strange)!r}" if strange else None


def _last_seq(file: Path) -> int:
    for path in (file, file.with_name(file.name + ".1")):
        try:
            with open(path, "rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - 65536))
                for line in reversed(stream.read().splitlines()):
                    try:
                        return int(json.loads(line)["seq"])
                    except (ValueError, KeyError, TypeError):
                        continue
        except OSError:
            continue
    return 0


def _journal() -> socket.socket | None:
    if not os.path.exists(_JOURNAL):
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.setblocking(False)
    return channel


def _send(channel: socket.socket, entry: MutableMapping[str, Any]) -> None:
    """One datagram of the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    fields = {"MESSAGE": json.dumps(dict(entry)), "SYSLOG_IDENTIFIER": "pbsdock"}
    fields["PRIORITY"] = _PRIORITY[str(entry["level"])]
    fields |= {key.upper(): str(entry[key]) for key in _JOURNAL_FIELDS if key in entry}
    data = b""
    for key, value in fields.items():
        raw = value.encode()
        data += key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
    try:
        channel.sendto(data, _JOURNAL)
    except OSError:
        pass  # the journal is a second copy; the file is the stream
