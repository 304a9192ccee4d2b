"""Children of which somebody was lost: their maker, or the client that waits for them. Nothing of theirs may stay.

Looked for once a second; what the engine does not let go now it is asked for again.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from pbsdock.agent.children.adopt import command_of
from pbsdock.agent.children.finish import kill
from pbsdock.agent.children.start import discard
from pbsdock.agent.node import Node
from pbsdock.agent.runs import ChildRun
from pbsdock.core.errors import HookError
from pbsdock.core.record import Record
from pbsdock.engine.base import EngineError
from pbsdock.host.process import alive

_GONE_S = 2.0  # how long a client is gone before its container is taken for left: its last word may be on its way


class Mender:
    """One look at a time, in a thread of its own where there is something to do."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._gone: dict[str, float] = {}  # runs by their keys: since when their client is gone, monotonic
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """End the children that are left, remove those that are half made."""
        if self._thread is not None and self._thread.is_alive():
            return
        left = self._left()
        half_made = self._node.children.half_made() if self._node.engine.down_because is None else []
        if left or half_made:
            self._thread = threading.Thread(target=self._mend, args=(left, half_made), name="mender", daemon=True)
            with suppress(RuntimeError):  # no thread more can be had; the next look may have one
                self._thread.start()

    def _left(self) -> list[ChildRun]:
        """Those that nobody waits for any more, or whose command will never begin."""
        now, found, gone = time.monotonic(), [], {}
        for run in self._node.jobs.all_children():
            if run.ended is not None:
                continue
            if run.client[0] and not alive(*run.client):
                gone[run.key] = since = self._gone.get(run.key, now)
                if now - since >= _GONE_S:
                    found.append(run)
            elif run.begins_by and now >= run.begins_by:
                if not command_of(run.pid):
                    found.append(run)
                run.begins_by = 0.0
        self._gone = gone
        return found

    def _mend(self, left: list[ChildRun], half_made: list[tuple[str, str]]) -> None:
        records: dict[str, Record] = {record.name: record for record in self._node.jobs.records()}
        for run in left:
            with suppress(HookError, EngineError, OSError):
                kill(self._node, run)
        for job, key in half_made:
            with suppress(HookError):
                if (record := records.get(job)) is not None:
                    with self._node.children.starting(job, key):
                        discard(self._node, record, key)
