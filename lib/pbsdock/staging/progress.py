"""Counters of an order: any thread counts, and once a second they are sent to the agent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_PERIOD_S = 1.0
_SENTENCES = 10  # kept of those on what is left out; the rest is counted


class Progress:
    """Counters of files and bytes."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.files = self.bytes = self.files_done = self.bytes_done = self.skipped = self.unverified = 0
        self.left_out: list[str] = []
        self.more_left_out = 0

    def start(self) -> None:
        """Start to send the counters."""
        threading.Thread(target=self._loop, daemon=True).start()

    def stop(self) -> None:
        """Stop to send them."""
        self._over.set()

    def expect(self, files: int, size: int) -> None:
        """Add to the total."""
        with self._lock:
            self.files, self.bytes = self.files + files, self.bytes + size

    def add(self, size: int = 0, files: int = 0, unverified: int = 0) -> None:
        """Add to what is done; *size* in bytes."""
        with self._lock:
            self.bytes_done += size
            self.files_done += files
            self.unverified += unverified

    def skip(self, size: int) -> None:
        """Count a file that is already there; *size* in bytes."""
        with self._lock:
            self.skipped += 1
            self.files_done += 1
            self.bytes_done += size

    def leave_out(self, sentence: str) -> None:
        """Note a file that is left out; *sentence* says why."""
        with self._lock:
            if len(self.left_out) < _SENTENCES:
                self.left_out.append(sentence)
            else:
                self.more_left_out += 1

    def seen(self) -> dict[str, int]:
        """All counters by name."""
        with self._lock:
            names = ("files", "bytes", "files_done", "bytes_done", "skipped", "unverified")
            return {name: getattr(self, name) for name in names}

    def _loop(self) -> None:
        while not self._over.wait(_PERIOD_S):
            self._tell({"progress": self.seen()})
