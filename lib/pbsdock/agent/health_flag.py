"""The file whose presence takes the node out of service: pbs_mom's node check reports its first line."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from pbsdock.agent.protocols import Emits
from pbsdock.core.errors import NodeFault

_CONFIRMED_S = 5.0


class HealthFlag:
    """Its lines are a sentence, a code and when it was last raised (seconds since the epoch)."""

    def __init__(self, file: Path, events: Emits) -> None:
        self._file = file
        self._events = events

    def set(self, error: NodeFault) -> None:
        """Take the node out of service, until ``health.recover`` brings it back. Raises nothing for a full disk."""
        temporary = self._file.with_suffix(".new")
        is_fresh = not self._file.exists()
        sentence = " ".join(error.sentence.split())
        with suppress(OSError):  # on a full disk without its sentence: what counts is that the flag is there
            temporary.write_text(f"{sentence}\n{error.code}\n{time.time():.0f}\n")
        with suppress(OSError):
            temporary.chmod(0o644)
            temporary.rename(self._file)
        if is_fresh:
            self._events.emit("node.unhealthy", level="error", code=error.code, sentence=sentence)

    def is_set_for(self, code: str) -> bool:
        """Whether it was set for this reason a moment ago, so that nobody need look again."""
        try:
            lines = self._file.read_text().splitlines()
            return lines[1:2] == [code] and time.time() - self._file.stat().st_mtime < _CONFIRMED_S
        except OSError:
            return False
