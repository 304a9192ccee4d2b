"""Replace the object-store sessions of jobs that outlive them."""

from __future__ import annotations

import threading

from pbsdock.agent.node import Node
from pbsdock.core.record import Record, State

_LOOK_S = 1.0
_ONE_JOB_S = 900.0  # some questions of at most 60 s to each of its stores


class Refresher:
    """What a thread of its own does until *stop* is set: a gateway may be slow."""

    def __init__(self, node: Node, stop: threading.Event) -> None:
        self.node = node
        self.stop = stop

    def run(self) -> None:
        """Look every second."""
        while not self.stop.wait(_LOOK_S):
            with self.node.pulse.at_work(_ONE_JOB_S) as next_job:
                for record in self._records():
                    next_job()
                    if record.state is State.RUNNING:
                        self._refresh(record)

    def _refresh(self, record: Record) -> None:
        try:
            if self.node.stores.refresh(record, self.node.store_dir(record)):
                record.save()
        except Exception as error:  # one job's trouble must not end the others' sessions
            self.node.emit("agent.error", level="error", where="refresh", reason=repr(error)[:300])

    def _records(self) -> list[Record]:
        try:
            return self.node.jobs.records()
        except OSError:  # no descriptors: the next look may have some
            return []
