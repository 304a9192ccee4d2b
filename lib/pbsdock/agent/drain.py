"""Whether an admin keeps new container jobs away from this node: a file that outlives the agent and a reboot.

The node check reports its first line to the resource manager, which then sends no more jobs of any kind.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pbsdock.core.errors import NodeFault

MOST_REASON = 200  # characters


@dataclass(frozen=True, slots=True)
class Drained:
    """Why, and since when (seconds since the epoch)."""

    reason: str
    since: float

    @property
    def sentence(self) -> str:
        """For the resource manager and for whoever asks why a job was queued again."""
        return f"drained by an admin: {self.reason}" if self.reason else "drained by an admin"

    def to_dict(self) -> dict[str, str | float]:
        """Plain data for ``--json``."""
        return {"reason": self.reason, "since": self.since, "sentence": self.sentence}


class Drain:
    """The file, whose lines are a sentence for the node check, the reason as given, and the time. Any thread."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> Drained | None:
        """None if the node is not drained. A file that is damaged counts as one without a reason."""
        try:
            lines = self._file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return None
        except OSError:
            return Drained("", 0.0)
        reason = lines[1] if len(lines) > 1 else ""
        since = 0.0
        with suppress(ValueError, IndexError):
            since = float(lines[2])
        return Drained(reason, since)

    def set(self, reason: str) -> Drained:
        """Drain the node, or give another reason; it stays drained since it first was. Raises OSError."""
        before = self.now()
        plain = " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:MOST_REASON]
        drained = Drained(plain, before.since if before and before.since else round(time.time()))
        temporary = self._file.with_suffix(".new")
        with open(temporary, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"{drained.sentence}\n{drained.reason}\n{drained.since:.0f}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._file)
        return drained

    def clear(self) -> Drained | None:
        """Take jobs again; returns what was in force, None for nothing. Raises OSError."""
        before = self.now()
        self._file.unlink(missing_ok=True)
        return before

    def check(self, node: str) -> None:
        """Raises NodeFault while the node is drained, for the job to be queued again."""
        if (drained := self.now()) is not None:
            raise NodeFault("drained", f"{node} takes no new container jobs: {drained.sentence}")
