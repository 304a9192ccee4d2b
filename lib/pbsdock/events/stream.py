"""The event stream: one JSON object per line, for a file and the systemd journal.

Text from jobs (names, images, user names) is data: JSON escapes it, lengths are capped, and nothing a user writes can
begin a line of its own.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from pbsdock.config.tables import EventsConfig
from pbsdock.events import processors
from pbsdock.events.file import EventFile
from pbsdock.events.limits import EventLimits


class _Writer:
    """What structlog writes to: a method for each level of the register."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.info = self.warning = self.error = write


Observer = Callable[[str, str, dict[str, Any]], None]  # event, level, fields


class EventStream:
    """Where events go. ``emit`` may be called from any thread and never raises for a full disk.

    With *strict* an event or field that is not in the register raises ValueError, which is for tests; otherwise it is a
    warning in the stream, because a slip in a report must not end a job.

    ``observer`` is called with every event, one at a time, also with what is limited or cannot be written; each of the
    latter is an ``events.dropped`` to it.
    """

    def __init__(
        self,
        file: Path,
        *,
        node: str,
        journald: bool = False,
        max_field: int = 4096,
        max_line: int = 32768,
        strict: bool = False,
        limits: EventLimits | None = None,
        add_timestamp: processors.Processor = processors.add_timestamp,
    ) -> None:
        self._file = EventFile(file)
        self._limits = limits or EventLimits()
        self._lock = threading.RLock()
        self._dropped = 0
        self.observer: Observer | None = None
        journal = _journal() if journald else None
        self._log: structlog.BoundLogger = structlog.wrap_logger(
            _Writer(self._file.append),
            processors=[
                processors.limit(self._limits),
                structlog.processors.add_log_level,
                add_timestamp,
                processors.add_sequence(lambda: self._file.seq + 1),
                processors.check_schema(strict=strict),
                processors.order_fields,
                processors.to_scalars,
                processors.redact,
                processors.truncate(max_field),
                *([] if journal is None else [processors.send_to_journal(journal)]),
                processors.render(max_line),
            ],
            wrapper_class=structlog.BoundLogger,
            node=node,
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
            self._observe(event, level, fields)
            if not self._write(event, level, fields):
                self._dropped += 1
                self._observe("events.dropped", "warning", {"count": 1})

    def tell_limited(self, *, now: bool = False) -> None:
        """Write how many events were left out, if it is time, or *now* because there will be no other."""
        with self._lock:
            for left_out in self._limits.due(now=now):
                self.emit("events.limited", level="warning", **left_out)

    def _observe(self, event: str, level: str, fields: dict[str, Any]) -> None:
        if self.observer is None:
            return
        try:
            self.observer(event, level, fields)
        except Exception:  # a slip in counting must not end a job
            pass

    def _write(self, event: str, level: str, fields: dict[str, Any]) -> bool:
        try:
            getattr(self._log, level)(event, **fields)
        except OSError:
            return False
        return True


def _journal() -> socket.socket | None:
    if not os.path.exists(processors.JOURNAL):
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.setblocking(False)
    return channel
